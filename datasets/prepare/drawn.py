"""Two slices drawn in an otherwise empty label: CoGRNet's annotation, found in the label itself."""

from collections.abc import Sequence

import numpy as np

Slice = tuple[int, int]  # axis, number
# voxels along every axis; of a smaller object a whole label may look like two slices
SMALLEST = 4


def drawn_slices(label: np.ndarray) -> tuple[Slice, Slice] | None:
    """The two orthogonal slices that hold all of a label (three axes), the one along the later axis first; None for any other label."""
    inside = label > 0
    held = [
        np.flatnonzero(inside.any(tuple(other for other in range(3) if other != axis)))
        for axis in range(3)
    ]
    if any(not numbers.size or np.ptp(numbers) + 1 < SMALLEST for numbers in held):
        return None
    for first, second in ((2, 1), (2, 0), (1, 0)):
        one = _fullest(inside, first)
        other = _only(_without(inside, (first, one)), second)
        if other is not None and _only(_without(inside, (second, other)), first) == one:
            return (first, one), (second, other)
    return None


def only_slice(label: np.ndarray) -> Slice | None:
    """The slice that holds all of a label, of an axis along which there are others."""
    found = ((axis, _only(label > 0, axis)) for axis in range(3) if label.shape[axis] > 1)
    return next(((axis, number) for axis, number in found if number is not None), None)


def _counts(inside: np.ndarray, axis: int) -> np.ndarray:
    return np.count_nonzero(inside, axis=tuple(other for other in range(3) if other != axis))


def _fullest(inside: np.ndarray, axis: int) -> int:
    return int(_counts(inside, axis).argmax())


def _only(inside: np.ndarray, axis: int) -> int | None:
    numbers = np.flatnonzero(_counts(inside, axis))
    return int(numbers[0]) if len(numbers) == 1 else None


def _without(inside: np.ndarray, place: Slice) -> np.ndarray:
    rest = inside.copy()
    rest[_at(place)] = False
    return rest


def _at(place: Slice) -> tuple:
    axis, number = place
    return (*[slice(None)] * axis, number)


def place_slices(
    planes: Sequence[np.ndarray], places: Sequence[Slice], shape: Sequence[int]
) -> np.ndarray:
    """A label (uint8) of `shape` that is empty but for these slices, each (its two axes in their order)."""
    label = np.zeros(shape, np.uint8)
    for plane, place in zip(planes, places, strict=True):
        label[_at(place)] = plane
    return label
