"""A picture of one case's coarse labels: the annotated slices, propagated outlines over a montage, where the planes disagree."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np

from dataloaders.coarse import Annotation
from utils.files import replacing
from utils.pictures import COLOURS

matplotlib.use("Agg")
import matplotlib.pyplot as plt

MONTAGE = 6
DRAWN, PX, PY = COLOURS[5] / 255, COLOURS[1] / 255, COLOURS[2] / 255


def write_picture(
    path: Path,
    name: str,
    image: np.ndarray,
    drawn: Sequence[Annotation],
    labels: Sequence[np.ndarray],
    alone: Sequence[np.ndarray],
    agreement: float,
    axes: str,
) -> None:
    """Write the picture. `labels` are the two coarse labels, `alone` what each plane gave by itself (the same unless they were fused),
    all shaped like `image`; `axes` names the volume's axes in their order."""
    low, high = np.percentile(image, (0.5, 99.5))
    shown = np.clip((image - low) / max(high - low, 1e-9), 0, 1)
    heights = [
        rows / columns
        for own in drawn
        for rows, columns in [_upright(shown[own.position()], _letters(axes, own)).shape]
    ]
    figure, grid = plt.subplots(
        4,
        MONTAGE // 2 + 1,
        figsize=(11, 5.5 * sum(heights) + 2),
        height_ratios=[max(h, 0.2) for h in heights for _ in range(2)],
    )
    figure.subplots_adjust(0.01, 0.06, 0.99, 0.91, 0.05, 0.15)
    for plane, own in enumerate(drawn):
        top = grid[2 * plane : 2 * plane + 2]
        letters = _letters(axes, own)
        _slice(
            top[0, 0],
            shown[own.position()],
            letters,
            [(own.mask, DRAWN)],
            f"annotated, {axes[own.axis]} = {own.index}",
        )
        _disagreement(top[1, 0], shown, alone, own.axis, letters, axes[own.axis], agreement)
        for cell, index in zip(
            top[:, 1:].flat, _spread((alone[0] | alone[1]) > 0, own.axis), strict=True
        ):
            place = (*[slice(None)] * own.axis, index)
            outlines = [(alone[0][place], PX), (alone[1][place], PY)]
            if labels[0] is not alone[0]:
                outlines.append((labels[0][place], "white"))
            _slice(cell, shown[place], letters, outlines, f"{axes[own.axis]} = {index}")
    handles = [
        plt.Line2D([], [], color=c, label=t)
        for c, t in ((DRAWN, "annotated"), (PX, "px: from the first plane"), (PY, "py: second"))
    ]
    if labels[0] is not alone[0]:
        handles.append(plt.Line2D([], [], color="lightgrey", label="fused (white)"))
    figure.legend(
        handles=handles, loc="lower center", ncols=len(handles), fontsize=9, frameon=False
    )
    figure.suptitle(f"{name}: coarse labels, Dice of px and py {agreement:.3f}", fontsize=11)
    with replacing(path) as unfinished:
        figure.savefig(unfinished, dpi=90)
    plt.close(figure)


def _spread(label: np.ndarray, axis: int) -> np.ndarray:
    """Slices spread over the part of the axis where there is a label."""
    found = np.flatnonzero(label.any(axis=tuple(k for k in range(label.ndim) if k != axis)))
    return np.linspace(found[0], found[-1], MONTAGE + 2)[1:-1].round().astype(int)


def _letters(axes: str, own: Annotation) -> str:
    """The axes of the plane's slices."""
    return axes[: own.axis] + axes[own.axis + 1 :]


def _upright(picture: np.ndarray, letters: str) -> np.ndarray:
    """Rows downwards, columns to the right: x is horizontal, z vertical and upwards."""
    picture = picture.T if letters in ("xy", "xz", "yz") else picture
    return picture[::-1] if "z" in letters else picture


def _slice(cell, image: np.ndarray, letters: str, outlines: Sequence[tuple], title: str) -> None:
    cell.imshow(_upright(image, letters), cmap="gray", vmin=0, vmax=1)
    for mask, colour in outlines:
        if mask.any():
            cell.contour(_upright(mask > 0, letters), levels=[0.5], colors=[colour], linewidths=1.1)
    cell.set_title(title, fontsize=8)
    cell.set_axis_off()


def _disagreement(
    cell, shown: np.ndarray, alone: Sequence, axis: int, letters: str, letter: str, agreement: float
) -> None:
    """How many voxels along the axis have only one of the two labels."""
    apart = ((alone[0] > 0) != (alone[1] > 0)).sum(axis)
    cell.imshow(_upright(shown.mean(axis), letters), cmap="gray")
    counts = _upright(apart, letters)
    heat = cell.imshow(
        np.ma.masked_equal(counts, 0), cmap="inferno", alpha=0.7, vmin=0, vmax=max(counts.max(), 1)
    )
    cell.figure.colorbar(heat, ax=cell, shrink=0.7).ax.tick_params(labelsize=7)
    cell.set_title(f"voxels along {letter} with one label alone", fontsize=8)
    cell.set_axis_off()
