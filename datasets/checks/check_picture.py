"""A picture of one case: its middle planes, and the same with the label over them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.image import imsave

from utils.errors import writing
from utils.files import replacing
from utils.pictures import overlay

SIDE = 320
"""Pixels of the longest side of a plane."""
GAP = 4


def write_picture(
    path: Path, image: np.ndarray, label: np.ndarray | None, spacing_mm: Sequence[float] | None
) -> None:
    """Write a PNG of an image (x, y, z) and its label of the same shape, to scale.

    Each axis has a column: the plane across it where the label is largest (without label the middle
    one), front and head upwards. The lower row has the label's colours.
    """
    spacing = np.ones(3)
    if spacing_mm is not None and len(spacing_mm) == 3:
        spacing = np.asarray(spacing_mm)
    if label is None:
        label = np.zeros(image.shape, np.uint8)
    scale = SIDE / (spacing * image.shape).max()
    columns = []
    for axis in (2, 1, 0):
        column = _column(image, label, axis=axis, pixels_per_voxel=spacing * scale)
        if column is not None:
            columns.append(column)
    height = max(column.shape[0] for column in columns)
    padded = [
        np.pad(column, ((0, height - column.shape[0]), (0, GAP), (0, 0))) for column in columns
    ]
    with (
        writing(path, "free space or choose another folder with --output"),
        replacing(path) as unfinished,
    ):
        imsave(unfinished, np.hstack(padded))


def _column(
    image: np.ndarray, label: np.ndarray, axis: int, pixels_per_voxel: np.ndarray
) -> np.ndarray | None:
    """The plane across the axis without and with its label; None where it is too narrow to see."""
    others = tuple(other for other in range(3) if other != axis)
    areas = np.count_nonzero(label, axis=others)
    number = image.shape[axis] // 2
    if areas.any():
        number = int(areas.argmax())
    rows = []
    for other in others:
        pixels = max(round(image.shape[other] * pixels_per_voxel[other]), 1)
        if pixels < GAP:
            return None  # the image is a single picture, which has only one plane
        rows.append(np.arange(pixels) * image.shape[other] // pixels)
    plane = _upright(image, axis, number=number, rows=rows)
    low, high = np.percentile(plane, (0.5, 99.5))
    plane = plane.clip(low, high)
    plane_label = _upright(label, axis, number=number, rows=rows)
    return np.vstack([overlay(plane, np.zeros_like(plane_label)), overlay(plane, plane_label)])


def _upright(volume: np.ndarray, axis: int, number: int, rows: Sequence[np.ndarray]) -> np.ndarray:
    """A plane of a volume at the pixels `rows`, with front or head upwards."""
    return volume.take(number, axis)[np.ix_(*rows)][:, ::-1].T
