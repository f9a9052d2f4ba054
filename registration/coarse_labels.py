"""Make two coarse labels from two annotated slices, and measure them without a dense label.

The functions are pure. They choose the slices of each direction and assemble propagated slices to
volumes; the registration itself is in registration/propagation.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dataloaders.coarse import Annotation, coarse_path, training_label
from registration.propagation import Carried, Guide, fuse, signed_distance
from utils.axes import other_axes

# Warn about a label that ends more than this many slices before the object ends on the other
# plane's annotated slice.
EARLY_SLICES = 3
PLANES = ("px", "py")
AGAIN = "run the same command again"


@dataclass(frozen=True)
class AnnotatedCase:
    """A labelled case: its HDF5 file and the two annotated slices, px first."""

    name: str
    path: Path
    annotated: tuple[Annotation, Annotation]

    @property
    def coarse(self) -> tuple[Path, Path]:
        """Paths of the two coarse labels."""
        return coarse_path(self.path, 0), coarse_path(self.path, 1)


def directions(
    annotation: Annotation, other: Annotation | None, length: int
) -> list[tuple[np.ndarray, Guide | None]]:
    """Return the slice numbers of both directions, towards the start of the axis first.

    Each starts at the annotated slice. Without `other` they reach the ends of the axis, which has
    `length` slices. With `other`, the annotated slice of the other plane, they reach the ends of
    the object on that slice, and each direction has a guide.
    """
    if other is None:
        return [
            (np.arange(annotation.index, -1, -1), None),
            (np.arange(annotation.index, length), None),
        ]
    axis = _axis_within(annotation, other)
    mask = other.mask > 0
    lines = np.moveaxis(mask, axis, 0)
    distance = np.moveaxis(signed_distance(mask), axis, 0)
    first = 0
    last = length - 1
    # If the line is empty, `other` shows a different part of the object, which does not end where
    # this part does.
    if lines[annotation.index].any():
        first, last = np.flatnonzero(lines.any(1))[[0, -1]]
    backwards = np.arange(annotation.index, first - 1, -1)
    forwards = np.arange(annotation.index, last + 1)
    parts = []
    for numbers in (backwards, forwards):
        guide = Guide(distance[numbers], axis=_axis_within(other, annotation), position=other.index)
        parts.append((numbers, guide))
    return parts


def assemble(
    case: AnnotatedCase, shape: tuple[int, ...], carried: Sequence[Carried], improved: bool
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Assemble the labels of both planes as uint8 volumes: before fusion, and for training.

    The volumes have `shape`. `carried`: the four directions in the order px start, px end, py
    start, py end. The two lists are the same unless `improved`, which fuses the planes and writes
    both annotated slices over the result.
    """
    separate = []
    for plane, annotation in enumerate(case.annotated):
        other = None
        if improved:
            other = case.annotated[1 - plane]
        label = np.zeros(shape, np.uint8)
        slices = np.moveaxis(label, annotation.axis, 0)
        parts = directions(annotation, other, length=shape[annotation.axis])
        results = carried[2 * plane : 2 * plane + 2]
        for (numbers, _), result in zip(parts, results, strict=True):
            slices[numbers] = result.label
        separate.append(label)
    if not improved:
        return separate, separate
    px, py = case.annotated
    fused = fuse(
        (separate[0] > 0, separate[1] > 0), positions=((px.axis, px.index), (py.axis, py.index))
    )
    for annotation in case.annotated:
        fused = training_label(fused, annotation)
    return separate, [fused, fused]


def extent_row(case: AnnotatedCase, plane: int, label: np.ndarray) -> dict[str, object]:
    """Measure how far the plane's label reaches: a row of registration.csv.

    Only the label and the annotated slices are read.
    """
    annotation = case.annotated[plane]
    length = label.shape[annotation.axis]
    first, last = _extent(label, annotation.axis)
    seen_first, seen_last = _seen_extent(case, plane)
    died_below: int | str = ""
    if first > 0:
        died_below = first - 1
    died_above: int | str = ""
    if last < length - 1:
        died_above = last + 1
    return {
        "case": case.name,
        "plane": PLANES[plane],
        "axis": annotation.axis,
        "annotated_slice": annotation.index,
        "slices": length,
        "first_slice": first,
        "last_slice": last,
        "died_below": died_below,
        "died_above": died_above,
        "beyond_other_plane": max(seen_first - first, 0) + max(last - seen_last, 0),
    }


def early_end_warnings(case: AnnotatedCase, plane: int, label: np.ndarray) -> list[str]:
    """Return a warning for each direction in which the label ends early.

    Early means before the object ends on the other plane's annotated slice.
    """
    axis = case.annotated[plane].axis
    first, last = _extent(label, axis)
    seen_first, seen_last = _seen_extent(case, plane)
    subject = f"{case.name}: the {PLANES[plane]} label is empty"
    reason = "but the other annotated slice shows the object up to slice"
    warnings = []
    if first - seen_first > EARLY_SLICES:
        warnings.append(
            f"{subject} up to slice {first - 1} of axis {axis}, {reason} {seen_first}; "
            f"check its picture"
        )
    if seen_last - last > EARLY_SLICES:
        warnings.append(
            f"{subject} from slice {last + 1} of axis {axis}, {reason} {seen_last}; "
            f"check its picture"
        )
    return warnings


def _axis_within(annotation: Annotation, other: Annotation) -> int:
    """Axis of `other.mask` along which the slices of `annotation` are counted."""
    if annotation.axis > other.axis:
        return annotation.axis - 1
    return annotation.axis


def _extent(label: np.ndarray, axis: int) -> tuple[int, int]:
    """First and last slice along `axis` that are not empty."""
    occupied = np.flatnonzero(label.any(axis=other_axes(label.ndim, axis)))
    return int(occupied[0]), int(occupied[-1])


def _seen_extent(case: AnnotatedCase, plane: int) -> tuple[int, int]:
    """First and last slice of the axis that show the object on the other annotated slice."""
    other = case.annotated[1 - plane]
    return _extent(other.mask, _axis_within(case.annotated[plane], other))
