"""Sparse annotation: two orthogonal slices of a volume drawn by hand, and the files of coarse labels made from them (CoGRNet, DPA).

A plane is an axis of the stored volume; the first gives `<case>px.h5`, the second `<case>py.h5`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from dataloaders.facts import DatasetFacts
from dataloaders.hdf5 import (
    ANNOTATED,
    numbers,
    opened,
    read_attribute,
    read_attributes,
    read_case,
    read_label,
    write_hdf5,
)
from utils.errors import UserError, writing

WORDS = ("middle", "object", "drawn")


@dataclass(frozen=True)
class Annotation:
    """One annotated slice: `mask` (uint8 0/1, the volume's other two axes in their order) at `index` of the volume's `axis`."""

    axis: int
    index: int
    mask: np.ndarray

    def position(self) -> tuple:
        """Index of the slice in its volume."""
        return (*[slice(None)] * self.axis, self.index)


def coarse_path(path: Path, plane: int) -> Path:
    """Where the coarse label of plane 0 (px) or 1 (py) of the case in `path` lies: beside it, the same two data sets in it."""
    return path.with_name(f"{path.stem}p{'xy'[plane]}{path.suffix}")


def training_label(coarse: np.ndarray, other: Annotation) -> np.ndarray:
    """What a stream of CoGRNet reads: a plane's coarse label with the other plane's true slice written over it; a copy."""
    label = coarse.copy()
    label[other.position()] = other.mask
    return label


@dataclass(frozen=True)
class Coarse:
    """What a coarse file holds: the `label` (uint8 0/1, axes as stored) that training reads, what its plane gave `alone`, before both
    were fused (else the same), and the file's attributes."""

    path: Path
    label: np.ndarray
    alone: np.ndarray
    attributes: dict

    def annotation(self, remedy: str) -> Annotation:
        """The annotated slice that it was made from; `remedy` ends the line of the UserError for a file that does not say which."""
        try:
            axis, index = int(self.attributes["coarse_axis"]), int(self.attributes["coarse_slice"])
            return Annotation(axis, index, np.take(self.label, index, axis))
        except (KeyError, IndexError, TypeError, ValueError):
            raise UserError(
                f"{self.path}: does not say which slice was annotated; {remedy}"
            ) from None


def read_coarse(path: Path, remedy: str) -> Coarse:
    """Raises UserError for a missing or damaged file; `remedy` is the end of its line where there is none."""
    with opened(path, f"no such coarse label; {remedy}") as file:
        label = read_label(path, file, 2)
        alone = read_label(path, file, 2, "carried") if "carried" in file else label
        return Coarse(path, label, alone, read_attributes(file))


def write_coarse(
    path: Path, image: np.ndarray, label: np.ndarray, alone: np.ndarray, attributes: dict
) -> None:
    """Write a coarse file, whole or not at all: `image` as registered, one channel, `label` with its axes; `alone` where it is another
    array."""
    data = {"image": image, "label": label, **({} if alone is label else {"carried": alone})}
    with writing(path, "free space, or copy the data where files can be written"):
        write_hdf5(path, data, attributes, compression="gzip")


def read_image(path: Path, facts: DatasetFacts) -> tuple[np.ndarray, dict]:
    """What registration goes by, the first modality of a case (three axes as stored, float32), and the file's attributes."""
    image, _, attributes = read_case(path, facts, facts.dims, label=False)
    return image[0], attributes


def read_annotation(
    path: Path, facts: DatasetFacts, planes: Sequence[int | str | None] = ()
) -> tuple[Annotation, Annotation]:
    """The two annotated slices of the case in `path`; of the label nothing else is read, of the image only its shape.

    `planes`: slice number of each plane, default the published ones; None and "middle" are the middle of the axis. "object" (the
    middle of the object) and "drawn" (the slice that holds most of it: the annotated one in a file that holds only two) are for
    an annotator who sees the object: only they read the whole label, and use it to choose the slice number alone. A file of own data
    says itself which slices are drawn.
    Raises UserError naming the file where there is no such slice, nothing is drawn on it, or the file is damaged.
    """
    with opened(path) as file:
        image, label = (numbers(path, file, key) for key in ("image", "label"))
        shape = image.shape[1:] if image.ndim > facts.dims else image.shape
        if label.shape != shape or label.ndim != facts.dims:
            raise UserError(
                f"{path}: image {image.shape} and label {label.shape}, expected one shape of {facts.dims} axes; draw it again"
            )
        first, second = (
            _annotated_slice(path, label, facts, axis, place)
            for axis, place in _chosen(path, file, facts, planes)
        )
        return first, second


def _chosen(
    path: Path, file: h5py.File, facts: DatasetFacts, planes: Sequence[int | str | None]
) -> list[tuple[int, int | str | None]]:
    """Axis and place of both slices."""
    drawn = read_attribute(path, read_attributes(file), ANNOTATED, (2, 2))
    if drawn is None:
        return [
            (axis, place)
            for (axis, _), place in zip(
                facts.planes, planes or [index for _, index in facts.planes], strict=True
            )
        ]
    known = [(int(axis), int(index)) for axis, index in drawn]
    if set(planes) - {"drawn"}:
        said = " and ".join(f"{index} along axis {axis}" for axis, index in known)
        raise UserError(f"{path}: slices {said} are drawn, no other; leave --planes out")
    return known


def _annotated_slice(
    path: Path, label: h5py.Dataset, facts: DatasetFacts, axis: int, place: int | str | None
) -> Annotation:
    length = label.shape[axis]
    if length < 2:
        raise UserError(
            f"{path}: one slice along axis {axis}, so there is nothing to carry a label to; give whole volumes"
        )
    index = (
        length // 2
        if place in (None, "middle")
        else _from_object(path, label, facts, axis, place)
        if isinstance(place, str)
        else place
    )
    if not 0 <= index < length:
        raise UserError(
            f"{path}: no slice {index} along axis {axis}, which has {length} (0 to {length - 1}); "
            f"name slices that fit these volumes, e.g. --planes middle middle"
        )
    drawn = label[(*[slice(None)] * axis, index)]
    if not (drawn.min() >= 0 and drawn.max() < facts.label_values) or (
        drawn.dtype.kind == "f" and (drawn % 1).any()
    ):
        raise UserError(
            f"{path}: the annotated slice {index} along axis {axis} holds values {drawn.min()}..{drawn.max()}, expected whole numbers "
            f"0..{facts.label_values - 1}; prepare the case again"
        )
    mask = facts.task_label(drawn.astype(np.uint8))
    if not mask.any():
        raise UserError(
            f"{path}: nothing is annotated on slice {index} along axis {axis}; draw there or name annotated slices with --planes"
        )
    return Annotation(axis, index, mask)


def _from_object(path: Path, label: h5py.Dataset, facts: DatasetFacts, axis: int, word: str) -> int:
    counts = np.count_nonzero(
        facts.task_label(label[()]), axis=tuple(k for k in range(label.ndim) if k != axis)
    )
    if not counts.any():
        raise UserError(f"{path}: nothing is annotated in the whole label; draw two slices of it")
    return (
        int(counts.argmax()) if word == "drawn" else int(np.flatnonzero(counts)[[0, -1]].sum() // 2)
    )
