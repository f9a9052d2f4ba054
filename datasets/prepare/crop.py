"""Boxes around labels, which four of the published preparations crop to."""

from collections.abc import Sequence

import numpy as np

from datasets.prepare.prepared_files import RawCase
from utils.axes import other_axes
from utils.errors import UserError

Box = tuple[tuple[int, ...], tuple[int, ...]]
"""The first voxel and the one after the last, in the order of the source file's axes."""


def label_to_follow(case: RawCase, label: np.ndarray | None) -> np.ndarray:
    """The label that the published crop follows. Raises UserError where it is empty."""
    if label is None or not label.any():
        raise UserError(
            f"{case.label}: the label is empty, but the published crop follows it; "
            "correct it, or use --crop none"
        )
    return label


def checked_box(box: Box | None, name: str, shape: Sequence[int]) -> Box:
    """The box, or the whole scan of `shape` for None.

    Raises UserError where the box is empty or reaches beyond the scan.

    `name`: the scan in messages.
    """
    if box is None:
        return (0, 0, 0), tuple(shape)
    start, stop = box
    pairs = list(zip(start, stop, strict=True))
    for (first, end), voxels in zip(pairs, shape, strict=True):
        if not 0 <= first < end <= voxels:
            written = " ".join(f"{first} {end}" for first, end in pairs)
            size = " x ".join(map(str, shape))
            raise UserError(
                f"--box {written}: not inside {name} of {size} voxels; give start and end of each "
                "axis"
            )
    return box


def label_range(label: np.ndarray, axis: int) -> tuple[int, int]:
    """First and last index along the axis where the label is not background."""
    indices = np.flatnonzero(label.any(other_axes(label.ndim, axis)))
    return int(indices[0]), int(indices[-1])


def slices_of_box(start: Sequence[int], stop: Sequence[int]) -> tuple[slice, ...]:
    """The index that takes the box from an array."""
    return tuple(slice(int(first), int(end)) for first, end in zip(start, stop, strict=True))


def cropped_to(label: np.ndarray | None, box: tuple[slice, ...]) -> np.ndarray | None:
    """The label inside the box as an array of its own; None for None."""
    if label is None:
        return None
    return np.ascontiguousarray(label[box])
