"""A picture of one case: its middle planes, and the same with the label over them."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from utils.axes import other_axes
from utils.errors import writing
from utils.files import replacing
from utils.pictures import colour, overlay

SIDE = 3.2
"""Inches of the longest side of the body."""
NARROWEST = 0.04
"""Inches of the narrowest plane that is drawn."""
MARGIN = 0.35
"""Inches around a plane, for its title and letters."""
LEGEND_ROW = 0.2
"""Inches of the height of a row of the legend."""
LEGEND_COLUMNS = 4
OPPOSITE = {"L": "R", "R": "L", "P": "A", "A": "P", "I": "S", "S": "I"}
PLANES = {
    "L": "sagittal",
    "R": "sagittal",
    "P": "coronal",
    "A": "coronal",
    "I": "axial",
    "S": "axial",
}
"""Name of the plane across an axis with that direction."""
EDGES = (
    (0.02, 0.5, "left", "center"),
    (0.98, 0.5, "right", "center"),
    (0.5, 0.02, "center", "bottom"),
    (0.5, 0.98, "center", "top"),
)
"""Place of a letter at each edge of a plane, in its width and height, and alignment there."""


def write_picture(path: Path, figure: Figure) -> None:
    """Write a figure as a PNG file. Raises UserError where that is not possible."""
    with (
        writing(path, "free space or choose another folder with --output"),
        replacing(path) as unfinished,
    ):
        figure.savefig(unfinished, format="png", dpi=100)


def draw_case(
    image: np.ndarray,
    label: np.ndarray | None,
    *,
    spacing_mm: Sequence[float] | None,
    directions: str,
    title: str,
    class_names: Mapping[int, str],
) -> Figure:
    """Draw an image (x, y, z) and its label of the same shape, to scale.

    Each axis has a column: the plane across it where the label is largest (without label the middle
    one), with the ends of y and z upwards. The lower row has the label's colours. `directions`: the
    body's direction to which each axis runs, such as RAS, empty if it is unknown. `class_names`: by
    label value.
    """
    spacing = np.ones(3)
    if spacing_mm is not None and len(spacing_mm) == 3:
        spacing = np.asarray(spacing_mm, float)
    size = spacing * image.shape
    size *= SIDE / size.max()
    axes = [axis for axis in (2, 1, 0) if min(np.delete(size, axis)) >= NARROWEST]
    values = _values(label)
    figure, cells = _grid(size, axes, rows=math.ceil(len(values) / LEGEND_COLUMNS))
    for column, axis in zip(cells.T, axes, strict=True):
        number = _slice_number(image, label, axis)
        plane = image.take(number, axis)
        plane_label = np.zeros(plane.shape, np.uint8)
        _draw(column[0], plane, plane_label, spacing=np.delete(spacing, axis))
        if label is not None:
            plane_label = label.take(number, axis)
        _draw(column[1], plane, plane_label, spacing=np.delete(spacing, axis))
        column[0].set_title(_plane_title(axis, number, image, directions), fontsize=8)
        for cell in column:
            _write_letters(cell, directions[:axis] + directions[axis + 1 :])
    figure.suptitle(title, fontsize=9)
    _draw_legend(figure, values, class_names)
    return figure


def _values(label: np.ndarray | None) -> list[int]:
    """The label's values without the background."""
    if label is None:
        return []
    return [int(value) for value in np.unique(label) if value]


def _grid(size: np.ndarray, axes: Sequence[int], rows: int) -> tuple[Figure, np.ndarray]:
    """A figure and its cells: two rows, and a column for the plane across each axis.

    `size`: of the body along x, y and z, in inches. `rows`: number of rows of the legend.
    """
    across: list[float] = []
    down: list[float] = []
    for axis in axes:
        horizontal, vertical = np.delete(size, axis)
        across.append(horizontal)
        down.append(vertical)
    width = sum(across) + MARGIN * (len(axes) + 1)
    legend = LEGEND_ROW * (rows + 1)
    top = 2 * MARGIN
    height = 2 * (max(down) + MARGIN) + legend + top
    figure = Figure(figsize=(max(width, SIDE), height))
    cells = figure.subplots(2, len(axes), squeeze=False, width_ratios=across)
    figure.subplots_adjust(
        left=MARGIN / figure.get_figwidth(),
        right=1 - MARGIN / figure.get_figwidth(),
        bottom=legend / height,
        top=1 - top / height,
        wspace=MARGIN * len(axes) / sum(across),
        hspace=MARGIN / max(down),
    )
    return figure, cells


def _slice_number(image: np.ndarray, label: np.ndarray | None, axis: int) -> int:
    """The slice where the label is largest; without label the middle one."""
    if label is not None and label.any():
        return int(np.count_nonzero(label, axis=other_axes(3, axis)).argmax())
    return image.shape[axis] // 2


def _draw(cell: Axes, plane: np.ndarray, label: np.ndarray, spacing: np.ndarray) -> None:
    """Draw a plane (2 axes, with these mm per voxel); the second axis runs upwards."""
    low, high = np.percentile(plane, (0.5, 99.5))
    picture = overlay(plane.clip(low, high).T, label.T)
    cell.imshow(picture, origin="lower", aspect=spacing[1] / spacing[0], interpolation="nearest")
    cell.set_xticks([])
    cell.set_yticks([])
    cell.set_facecolor("black")


def _plane_title(axis: int, number: int, image: np.ndarray, directions: str) -> str:
    name = f"across {'xyz'[axis]}"
    if directions:
        name = PLANES[directions[axis]]
    return f"{name}, slice {number + 1} of {image.shape[axis]}"


def _write_letters(cell: Axes, directions: str) -> None:
    """Write the body's directions, to which the two axes of a plane run, at its edges."""
    if not directions:
        return
    right, top = directions
    letters = (OPPOSITE[right], right, OPPOSITE[top], top)
    style = {"transform": cell.transAxes, "color": "yellow", "fontsize": 8}
    for letter, (x, y, across, down) in zip(letters, EDGES, strict=True):
        cell.text(x, y, letter, ha=across, va=down, **style)


def _draw_legend(figure: Figure, values: Sequence[int], class_names: Mapping[int, str]) -> None:
    """Draw a legend with the colours of the label's values below the planes."""
    patches = []
    for value in values:
        name = class_names.get(value, "not in the list of classes")
        patches.append(Patch(color=colour(value), label=f"{value}: {name}"))
    if patches:
        figure.legend(
            handles=patches, loc="lower center", ncols=LEGEND_COLUMNS, fontsize=8, frameon=False
        )
