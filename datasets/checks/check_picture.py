"""One case to look at: its middle planes, and the same with the label over them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.image import imsave

from utils.errors import writing
from utils.files import replacing
from utils.pictures import overlay

SIDE = 320  # pixels of the longest side of a plane
GAP = 4


def write_picture(
    path: Path, image: np.ndarray, label: np.ndarray | None, spacing_mm: Sequence[float] | None
) -> None:
    """A PNG of an image (x, y, z) and its label of the same shape: a column for each axis, seen
    along it where the label is largest (without label in the middle), front and head upwards; the
    label's colours in the lower row. Sides are to scale.
    """
    spacing = np.ones(3) if spacing_mm is None or len(spacing_mm) != 3 else np.asarray(spacing_mm)
    drawn = np.zeros(image.shape, np.uint8) if label is None else label
    scale = SIDE / (spacing * image.shape).max()
    columns = []
    for axis in (2, 1, 0):
        others = tuple(k for k in range(3) if k != axis)
        areas = np.count_nonzero(drawn, axis=others)
        at = int(areas.argmax()) if areas.any() else image.shape[axis] // 2
        size = [max(round(image.shape[k] * spacing[k] * scale), 1) for k in others]
        if min(size) < GAP:
            continue  # a single picture has one plane
        rows = [np.arange(n) * image.shape[k] // n for n, k in zip(size, others, strict=True)]
        plane, over = (volume.take(at, axis)[np.ix_(*rows)][:, ::-1].T for volume in (image, drawn))
        low, high = np.percentile(plane, (0.5, 99.5))
        plane = plane.clip(low, high)
        columns.append(np.vstack([overlay(plane, np.zeros_like(over)), overlay(plane, over)]))
    height = max(column.shape[0] for column in columns)
    picture = np.hstack(
        [np.pad(column, ((0, height - column.shape[0]), (0, GAP), (0, 0))) for column in columns]
    )
    with (
        writing(path, "free space or name another place with --output"),
        replacing(path) as unfinished,
    ):
        imsave(unfinished, picture)
