"""Sparse annotation: two orthogonal slices of a volume drawn by hand, and the files of coarse
labels made from them (CoGRNet, DPA).

A plane is an axis of the stored volume; the first gives `<case>px.h5`, the second `<case>py.h5`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from dataloaders.dataset_info import DatasetInfo
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
from utils.axes import other_axes
from utils.errors import UserError, writing

WORDS = ("middle", "object", "drawn")


@dataclass(frozen=True)
class Annotation:
    """One annotated slice: `mask` (uint8 0/1, the volume's other two axes in their order) at
    `index` of the volume's `axis`.
    """

    axis: int
    index: int
    mask: np.ndarray

    def position(self) -> tuple[slice | int, ...]:
        """Index of the slice in its volume."""
        return (*[slice(None)] * self.axis, self.index)


def coarse_path(path: Path, plane: int) -> Path:
    """Path of the coarse label of plane 0 (px) or 1 (py) of the case in `path`: next to it, with
    the same two data sets.
    """
    return path.with_name(f"{path.stem}p{'xy'[plane]}{path.suffix}")


def training_label(coarse: np.ndarray, other: Annotation) -> np.ndarray:
    """Copy a plane's coarse label and write the other plane's annotated slice over it, as a stream
    of CoGRNet reads it.
    """
    label = coarse.copy()
    label[other.position()] = other.mask
    return label


def slice_distance(shape: Sequence[int], annotation: Annotation, other: Annotation) -> np.ndarray:
    """Return for each voxel of a volume its distance to an annotated slice plus 1, as uint8
    (at most 255); 1 on the other one too.
    """
    positions = np.arange(shape[annotation.axis])
    along = np.minimum(np.abs(positions - annotation.index) + 1, 255).astype(np.uint8)
    columns = [1] * len(shape)
    columns[annotation.axis] = -1
    distance = np.broadcast_to(along.reshape(columns), shape).copy()
    distance[other.position()] = 1
    return distance


@dataclass(frozen=True)
class Coarse:
    """The contents of a coarse file.

    `label`: uint8 0/1, axes as stored, which training reads. `unfused`: the label from this plane
    only, before those of both planes were fused; the same array where they were not.
    """

    path: Path
    label: np.ndarray
    unfused: np.ndarray
    attributes: Mapping[str, Any]

    def annotation(self, remedy: str) -> Annotation:
        """The annotated slice that the label was made from.

        Raises UserError, which ends with `remedy`, where the file's attributes do not name the
        slice.
        """
        try:
            axis = int(self.attributes["coarse_axis"])
            index = int(self.attributes["coarse_slice"])
            return Annotation(axis, index, np.take(self.label, index, axis))
        except (KeyError, IndexError, TypeError, ValueError):
            raise UserError(
                f"{self.path}: does not record which slice was annotated; {remedy}"
            ) from None


def read_coarse(path: Path, remedy: str) -> Coarse:
    """Read a coarse file.

    Raises UserError for a missing or damaged file; for a missing one it ends with `remedy`.
    """
    with opened(path, f"no such coarse label; {remedy}") as file:
        label = read_label(path, file, values=2)
        unfused = label
        if "carried" in file:
            unfused = read_label(path, file, values=2, key="carried")
        return Coarse(path, label, unfused, read_attributes(file))


def write_coarse(
    path: Path,
    image: np.ndarray,
    label: np.ndarray,
    unfused: np.ndarray,
    attributes: Mapping[str, Any],
) -> None:
    """Write a coarse file, whole or not at all.

    `image`: as registered, one channel. `label`, `unfused`: with the same axes, see `Coarse`;
    `unfused` is stored where it is another array.
    """
    data = {"image": image, "label": label}
    if unfused is not label:
        data["carried"] = unfused
    with writing(path, "free space, or copy the data where files can be written"):
        write_hdf5(path, data, attributes, compression="gzip")


def read_image(path: Path, info: DatasetInfo) -> tuple[np.ndarray, dict[str, Any]]:
    """Read the image that is registered, the first modality of a case
    (three axes as stored, float32), and the file's attributes.
    """
    image, _, attributes = read_case(path, info, info.dims, label=False)
    return image[0], attributes


def read_annotation(
    path: Path, info: DatasetInfo, planes: Sequence[int | str | None] = ()
) -> tuple[Annotation, Annotation]:
    """Read the two annotated slices of the case in `path`; nothing else of the label is read, and
    of the image only its shape.

    `planes`: slice number of each plane, default those of `info`; None and "middle" are the middle
    of the axis. "object" (the middle of the object) and "drawn" (the slice with most of it:
    the annotated one in a file with only two) are for an annotator who sees the object: only they
    read the whole label, and use it only to choose the slice number. A file of own data records
    which slices are drawn. Raises UserError naming the file where there is no such slice, nothing
    is drawn on it, or the file is damaged.
    """
    with opened(path) as file:
        image = numbers(path, file, "image")
        label = numbers(path, file, "label")
        shape = image.shape
        if image.ndim > info.dims:
            shape = image.shape[1:]
        if label.shape != shape or label.ndim != info.dims:
            raise UserError(
                f"{path}: image {image.shape} and label {label.shape}, expected one shape of "
                f"{info.dims} axes; draw it again"
            )
        slices = _chosen(path, file, info=info, planes=planes)
        first, second = [
            _annotated_slice(path, label, info=info, axis=axis, place=place)
            for axis, place in slices
        ]
        return first, second


def _chosen(
    path: Path, file: h5py.File, info: DatasetInfo, planes: Sequence[int | str | None]
) -> list[tuple[int, int | str | None]]:
    """Axis and place of both slices."""
    drawn = read_attribute(path, read_attributes(file), key=ANNOTATED, shape=(2, 2))
    if drawn is None:
        axes = [axis for axis, _ in info.planes]
        places = planes or [index for _, index in info.planes]
        return list(zip(axes, places, strict=True))
    known: list[tuple[int, int | str | None]] = [(int(axis), int(index)) for axis, index in drawn]
    if set(planes) - {"drawn"}:
        names = " and ".join(f"{index} along axis {axis}" for axis, index in known)
        raise UserError(f"{path}: only the slices {names} are annotated; omit --planes")
    return known


def _annotated_slice(
    path: Path, label: h5py.Dataset, info: DatasetInfo, axis: int, place: int | str | None
) -> Annotation:
    """Read the slice of the label along `axis` at `place`, a word or a number, and check its
    values.
    """
    length = label.shape[axis]
    if length < 2:
        raise UserError(
            f"{path}: only one slice along axis {axis}, so the label cannot be propagated; give "
            "whole volumes"
        )
    if place is None or place == "middle":
        index = length // 2
    elif isinstance(place, str):
        index = _from_object(path, label, info=info, axis=axis, word=place)
    else:
        index = place
    if not 0 <= index < length:
        raise UserError(
            f"{path}: no slice {index} along axis {axis}, which has {length} (0 to {length - 1}); "
            f"name slices that fit these volumes, e.g. --planes middle middle"
        )
    drawn = label[(*[slice(None)] * axis, index)]
    is_in_range = drawn.min() >= 0 and drawn.max() < info.label_values
    has_fractions = drawn.dtype.kind == "f" and (drawn % 1).any()
    if not is_in_range or has_fractions:
        raise UserError(
            f"{path}: the annotated slice {index} along axis {axis} holds values "
            f"{drawn.min()}..{drawn.max()}, expected whole numbers "
            f"0..{info.label_values - 1}; prepare the case again"
        )
    mask = info.task_label(drawn.astype(np.uint8))
    if not mask.any():
        raise UserError(
            f"{path}: nothing is annotated on slice {index} along axis {axis}; annotate this "
            "slice, or name annotated slices with --planes"
        )
    return Annotation(axis, index, mask)


def _from_object(path: Path, label: h5py.Dataset, info: DatasetInfo, axis: int, word: str) -> int:
    """Number of the slice that `word` ("object" or "drawn") stands for."""
    objects = info.task_label(label[()])
    counts = np.count_nonzero(objects, axis=other_axes(label.ndim, axis))
    if not counts.any():
        raise UserError(f"{path}: nothing is annotated in the whole label; annotate two slices")
    if word == "drawn":
        return int(counts.argmax())
    occupied = np.flatnonzero(counts)
    return int((occupied[0] + occupied[-1]) // 2)
