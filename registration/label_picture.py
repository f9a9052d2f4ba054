"""Draw a picture of one case's coarse labels.

It shows the annotated slices, a montage of propagated outlines, and where the planes disagree.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np

from dataloaders.coarse import Annotation
from utils.axes import other_axes
from utils.files import replacing
from utils.pictures import COLOURS

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D

Colour = np.ndarray | str
MONTAGE = 6  # slices shown per plane, in two rows
ANNOTATED_COLOUR = COLOURS[5] / 255
PX_COLOUR = COLOURS[1] / 255
PY_COLOUR = COLOURS[2] / 255
FUSED_COLOUR = "white"


@dataclass(frozen=True, eq=False)
class LabelPicture:
    """The content of one case's picture; all arrays have the shape of `image`.

    `annotated`: the two annotated slices. `labels`: the two coarse labels. `separate`: the labels
    of both planes before fusion (the same arrays if nothing was fused). `agreement`: Dice of the
    two separate labels. `axes`: letters of the volume's axes, in order.
    """

    name: str
    image: np.ndarray
    annotated: Sequence[Annotation]
    labels: Sequence[np.ndarray]
    separate: Sequence[np.ndarray]
    agreement: float
    axes: str

    @property
    def is_fused(self) -> bool:
        """Whether the labels of both planes were fused."""
        return self.labels[0] is not self.separate[0]

    def letters(self, annotation: Annotation) -> str:
        """The two axes of the plane's slices."""
        return self.axes[: annotation.axis] + self.axes[annotation.axis + 1 :]


def write_picture(path: Path, content: LabelPicture) -> None:
    """Draw the picture and write it to `path`."""
    low, high = np.percentile(content.image, (0.5, 99.5))
    grey = np.clip((content.image - low) / max(high - low, 1e-9), 0, 1)
    figure, grid = _grid(content, grey)
    for plane in (0, 1):
        cells = grid[2 * plane : 2 * plane + 2]
        heat = _draw_plane(cells, content, grey=grey, plane=plane)
        bar = figure.colorbar(heat, ax=cells[1, 0], shrink=0.7)
        bar.ax.tick_params(labelsize=7)
    _draw_legend(figure, content.is_fused)
    title = f"{content.name}: coarse labels, Dice of px and py {content.agreement:.3f}"
    figure.suptitle(title, fontsize=11)
    with replacing(path) as unfinished:
        figure.savefig(unfinished, dpi=90)
    plt.close(figure)


def _grid(content: LabelPicture, grey: np.ndarray) -> tuple[Figure, np.ndarray]:
    """The figure and its axes: two rows per plane, whose heights fit the plane's slices."""
    total = 0.0
    ratios = []
    for annotation in content.annotated:
        picture = _upright(grey[annotation.position()], content.letters(annotation))
        height = picture.shape[0] / picture.shape[1]
        total += height
        ratios += [max(height, 0.2)] * 2
    figure, grid = plt.subplots(
        4, MONTAGE // 2 + 1, figsize=(11, 5.5 * total + 2), height_ratios=ratios
    )
    figure.subplots_adjust(left=0.01, bottom=0.06, right=0.99, top=0.91, wspace=0.05, hspace=0.15)
    return figure, grid


def _draw_plane(
    cells: np.ndarray, content: LabelPicture, grey: np.ndarray, plane: int
) -> AxesImage:
    """Draw the two rows of a plane: annotated slice and disagreement on the left, then the montage.

    Returns the coloured map of the disagreement.
    """
    annotation = content.annotated[plane]
    axis = annotation.axis
    axis_name = content.axes[axis]
    letters = content.letters(annotation)
    px, py = content.separate
    _draw_slice(
        cells[0, 0],
        grey[annotation.position()],
        letters=letters,
        outlines=[(annotation.mask, ANNOTATED_COLOUR)],
        title=f"annotated, {axis_name} = {annotation.index}",
    )
    heat = _draw_disagreement(cells[1, 0], content, grey=grey, annotation=annotation)
    indices = _spread((px | py) > 0, axis)
    for cell, index in zip(cells[:, 1:].flat, indices, strict=True):
        outlines: list[tuple[np.ndarray, Colour]] = [
            (px.take(index, axis), PX_COLOUR),
            (py.take(index, axis), PY_COLOUR),
        ]
        if content.is_fused:
            outlines.append((content.labels[0].take(index, axis), FUSED_COLOUR))
        _draw_slice(
            cell,
            grey.take(index, axis),
            letters=letters,
            outlines=outlines,
            title=f"{axis_name} = {index}",
        )
    return heat


def _draw_slice(
    cell: Axes,
    image: np.ndarray,
    letters: str,
    outlines: Sequence[tuple[np.ndarray, Colour]],
    title: str,
) -> None:
    cell.imshow(_upright(image, letters), cmap="gray", vmin=0, vmax=1)
    for mask, colour in outlines:
        if mask.any():
            upright = _upright(mask > 0, letters)
            cell.contour(upright, levels=[0.5], colors=[colour], linewidths=1.1)
    cell.set_title(title, fontsize=8)
    cell.set_axis_off()


def _draw_disagreement(
    cell: Axes, content: LabelPicture, grey: np.ndarray, annotation: Annotation
) -> AxesImage:
    """Draw, over the mean image, how many voxels along the axis have only one of the two labels.

    Returns the coloured map.
    """
    axis = annotation.axis
    letters = content.letters(annotation)
    px, py = content.separate
    counts = _upright(((px > 0) != (py > 0)).sum(axis), letters)
    cell.imshow(_upright(grey.mean(axis), letters), cmap="gray")
    heat = cell.imshow(
        np.ma.masked_equal(counts, 0), cmap="inferno", alpha=0.7, vmin=0, vmax=max(counts.max(), 1)
    )
    cell.set_title(f"voxels along {content.axes[axis]} with only one label", fontsize=8)
    cell.set_axis_off()
    return heat


def _draw_legend(figure: Figure, is_fused: bool) -> None:
    handles = [
        Line2D([], [], color=ANNOTATED_COLOUR, label="annotated"),
        Line2D([], [], color=PX_COLOUR, label="px: from the first plane"),
        Line2D([], [], color=PY_COLOUR, label="py: from the second plane"),
    ]
    if is_fused:
        handles.append(Line2D([], [], color="lightgrey", label="fused (white)"))
    figure.legend(
        handles=handles, loc="lower center", ncols=len(handles), fontsize=9, frameon=False
    )


def _spread(label: np.ndarray, axis: int) -> np.ndarray:
    """`MONTAGE` slice numbers, evenly spread over the slices along `axis` that hold a label."""
    occupied = np.flatnonzero(label.any(axis=other_axes(label.ndim, axis)))
    return np.linspace(occupied[0], occupied[-1], MONTAGE + 2)[1:-1].round().astype(int)


def _upright(picture: np.ndarray, letters: str) -> np.ndarray:
    """Turn a slice for display: x is horizontal, z is vertical and upwards."""
    if letters in ("xy", "xz", "yz"):
        picture = picture.T
    if "z" in letters:
        picture = picture[::-1]
    return picture
