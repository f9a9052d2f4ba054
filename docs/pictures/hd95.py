"""Draw hd95.png of docs/evaluation.md: HD95 and HD95 max of the same two masks.

python -m docs.pictures.hd95 docs/pictures/hd95.png
"""

import sys

import numpy as np
from matplotlib import pyplot
from matplotlib.axes import Axes

from evaluation.masks import MaskPair, mask_pair
from evaluation.metrics import hd95, hd95_max

SHAPE = (130, 170)
CENTRE = (65, 65)
RADIUS = 57
LEAK_LENGTH = 26
LEAK_HALF_WIDTH = 3
TRUTH_COLOUR = "#0072b2"
PREDICTION_COLOUR = "#d55e00"
BOTH_COLOUR = "#222222"


def masks() -> tuple[np.ndarray, np.ndarray]:
    """Return a prediction and the truth (H, W): a disc, and a disc with a thin leak."""
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    from_centre = np.hypot(rows - CENTRE[0], columns - CENTRE[1])
    truth = from_centre <= RADIUS
    is_row_of_leak = np.abs(rows - CENTRE[0]) <= LEAK_HALF_WIDTH
    end = CENTRE[1] + RADIUS + LEAK_LENGTH
    leak = is_row_of_leak & (columns >= CENTRE[1]) & (columns <= end)
    return truth | leak, truth


def draw_masks(axes: Axes, prediction: np.ndarray, truth: np.ndarray) -> None:
    """Draw both outlines."""
    axes.contourf(prediction, levels=[0.5, 1.5], colors=[PREDICTION_COLOUR], alpha=0.25)
    axes.contour(prediction, levels=[0.5], colors=[PREDICTION_COLOUR], linewidths=2)
    axes.contour(truth, levels=[0.5], colors=[TRUTH_COLOUR], linewidths=2, linestyles="dashed")
    axes.text(46, 70, "truth", color=TRUTH_COLOUR)
    axes.text(124, 55, "prediction", color=PREDICTION_COLOUR)
    axes.set_aspect("equal")
    axes.axis("off")


def draw_distances(axes: Axes, pair: MaskPair) -> None:
    """Draw the share of border voxels up to each distance, and where 95 % are reached."""
    directions = [
        ("prediction to truth", pair.to_truth, PREDICTION_COLOUR, (18.2, 0.915)),
        ("truth to prediction", pair.to_prediction, TRUTH_COLOUR, (3.5, 0.993)),
        ("both together", pair.both_directions, BOTH_COLOUR, (0.5, 0.942)),
    ]
    for name, distances, colour, place in directions:
        share = np.arange(1, len(distances) + 1) / len(distances)
        axes.plot(np.sort(distances), share, color=colour)
        axes.text(*place, name, color=colour)
    axes.axhline(0.95, color="grey", linewidth=0.8)
    for name, value in (("HD95", hd95(pair)), ("HD95 max", hd95_max(pair))):
        axes.axvline(value, color="grey", linewidth=0.8, linestyle="dotted")
        axes.text(value, 0.862, f"{name}\n{value:.1f}", ha="center", backgroundcolor="white")
    axes.set_xlim(0, LEAK_LENGTH + 1)
    axes.set_ylim(0.84, 1.005)
    axes.set_xlabel("distance to the other border, voxels")
    axes.set_ylabel("share of border voxels")


def main(path: str) -> None:
    """Write the picture to a file."""
    prediction, truth = masks()
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    draw_masks(left, prediction, truth)
    draw_distances(right, mask_pair(prediction, truth))
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main(sys.argv[1])
