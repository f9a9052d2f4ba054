"""Boxes around labels, which four of the published preparations crop to."""

from collections.abc import Sequence

import numpy as np

from datasets.prepare.prepared_files import RawCase
from utils.errors import UserError

Box = tuple[tuple[int, int, int], tuple[int, int, int]]
"""First voxel and the one after the last, in the order of the source file's indices."""


def needs_label(case: RawCase, crop: str) -> None:
    """UserError where the crop goes by a label and the scan has none."""
    if crop == "published" and case.label is None:
        raise UserError(
            f"{case.images[0]}: no label belongs to it, and the published crop goes by the label; --crop none does without"
        )


def not_empty(case: RawCase, label: np.ndarray) -> np.ndarray:
    if not label.any():
        raise UserError(
            f"{case.label}: the label is empty, and the published crop goes by it; mend it, or --crop none"
        )
    return label


def checked_box(box: Box | None, name: str, shape: Sequence[int]) -> Box:
    """The box that somebody names in place of the published crop, or the whole scan for none; UserError if it reaches beyond."""
    start, stop = box or ((0, 0, 0), tuple(shape))
    if not all(0 <= a < b <= n for a, b, n in zip(start, stop, shape, strict=True)):
        given = " ".join(f"{a} {b}" for a, b in zip(start, stop, strict=True))
        raise UserError(
            f"--box {given}: not inside {name} of {' x '.join(map(str, shape))} voxels; give start and end of each axis"
        )
    return start, stop


def label_range(label: np.ndarray, axis: int) -> tuple[int, int]:
    """First and last index along the axis where the label is anything but background."""
    where = np.flatnonzero(label.any(tuple(other for other in range(label.ndim) if other != axis)))
    return int(where[0]), int(where[-1])


def box_of(start: Sequence[int], stop: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))
