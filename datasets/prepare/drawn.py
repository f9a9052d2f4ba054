"""Two slices drawn in an otherwise empty label: CoGRNet's annotation, detected in the label."""

from collections.abc import Sequence

import numpy as np

from utils.axes import other_axes

Slice = tuple[int, int]
"""Axis and number."""
# Voxels along every axis. A complete label of a smaller object may look like two slices.
SMALLEST = 4
ORTHOGONAL = ((2, 1), (2, 0), (1, 0))


def drawn_slices(label: np.ndarray) -> tuple[Slice, Slice] | None:
    """The two orthogonal slices that contain all of a label (three axes), the one along the later
    axis first.

    The result is None for any other label.
    """
    inside = label > 0
    for axis in range(3):
        numbers = np.flatnonzero(_voxels_per_slice(inside, axis))
        if not numbers.size or np.ptp(numbers) + 1 < SMALLEST:
            return None
    for first, second in ORTHOGONAL:
        fullest = (first, int(_voxels_per_slice(inside, first).argmax()))
        number = _only_number(_without(inside, fullest), second)
        if number is None:
            continue
        if _only_number(_without(inside, (second, number)), first) == fullest[1]:
            return fullest, (second, number)
    return None


def only_slice(label: np.ndarray) -> Slice | None:
    """The slice that contains all of a label, of an axis along which there are others; None if
    there is none.
    """
    for axis in range(3):
        if label.shape[axis] == 1:
            continue
        number = _only_number(label > 0, axis)
        if number is not None:
            return axis, number
    return None


def label_of_slices(
    planes: Sequence[np.ndarray], positions: Sequence[Slice], shape: Sequence[int]
) -> np.ndarray:
    """A label (uint8) of `shape` that is empty except for these planes at these positions."""
    label = np.zeros(shape, np.uint8)
    for plane, position in zip(planes, positions, strict=True):
        label[_index(position)] = plane
    return label


def _voxels_per_slice(inside: np.ndarray, axis: int) -> np.ndarray:
    return np.count_nonzero(inside, axis=other_axes(3, axis))


def _only_number(inside: np.ndarray, axis: int) -> int | None:
    """The number of the only slice along the axis that is not empty; None where there are several
    or none.
    """
    numbers = np.flatnonzero(_voxels_per_slice(inside, axis))
    if len(numbers) != 1:
        return None
    return int(numbers[0])


def _without(inside: np.ndarray, position: Slice) -> np.ndarray:
    rest = inside.copy()
    rest[_index(position)] = False
    return rest


def _index(position: Slice) -> tuple[slice | int, ...]:
    axis, number = position
    return (slice(None),) * axis + (number,)
