"""Time the component filter on the pseudo labels of a step, against one class after the other.

    python benchmarks/filter.py

ACDC: twelve slices of four classes, 256x256, connectivity 8. LA: two patches of two classes,
112x112x80, connectivity 26. The labels are smooth (like a trained network's), smooth with specks,
and random (like no network's). Processor time of this thread; the two ways are timed in turn.
"""

import statistics
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cc3d
import numpy as np
from scipy.ndimage import gaussian_filter

from benchmarks.timing import time_in_turn
from utils.label_maps import Connectivity, largest_component_per_class

RUNS = 15
# shape, classes, connectivity
SHAPES = {"ACDC": ((12, 256, 256), 4, 8), "LA": ((2, 112, 112, 80), 2, 26)}


def filter_class_by_class(
    labels: np.ndarray, classes: int, connectivity: Connectivity
) -> np.ndarray:
    """Return the largest component of each class by the plain formula, one class at a time."""
    kept = np.zeros_like(labels)
    for sample, result in zip(labels, kept, strict=True):
        for label in range(1, classes):
            mask = (sample == label).view(np.uint8)
            components = cc3d.connected_components(mask, connectivity=connectivity)
            sizes = np.bincount(components.ravel())
            if len(sizes) > 1:
                result[components == sizes[1:].argmax() + 1] = label
    return kept


def label_maps(shape: tuple[int, ...], classes: int) -> dict[str, np.ndarray]:
    """Return label maps (samples, ...): a centred organ, the same with specks, and noise.

    Each class lies within the one before. One voxel of a hundred is a speck.
    """
    rng = np.random.default_rng(0)
    axes = [np.linspace(-1, 1, side) for side in shape[1:]]
    squares = [axis**2 for axis in np.meshgrid(*axes, indexing="ij")]
    uneven = [gaussian_filter(rng.normal(size=shape[1:]), 6) for _ in range(shape[0])]
    radius = np.sqrt(sum(squares)) + 2 * np.stack(uneven)
    borders = np.linspace(0.45, 0.15, classes - 1)[::-1]
    smooth = (classes - np.digitize(radius, borders) - 1).clip(0).astype(np.uint8)
    specks = np.where(rng.random(shape) < 0.01, rng.integers(0, classes, shape), smooth)
    return {
        "smooth": smooth,
        "specks": specks.astype(np.uint8),
        "random": rng.integers(0, classes, shape).astype(np.uint8),
    }


def main() -> None:
    """Check that both ways give the same labels, then print their times."""
    for dataset, (shape, classes, connectivity) in SHAPES.items():
        for kind, labels in label_maps(shape, classes).items():
            ways = {
                "ours": partial(largest_component_per_class, labels, classes, connectivity),
                "plain": partial(filter_class_by_class, labels, classes, connectivity),
            }
            np.testing.assert_array_equal(ways["ours"](), ways["plain"]())
            seconds = time_in_turn(ways, RUNS)
            ours = 1000 * statistics.median(seconds["ours"])
            plain = 1000 * statistics.median(seconds["plain"])
            foreground = np.count_nonzero(labels) / labels.size
            print(
                f"{dataset:<5}{kind:<7} ({foreground:.0%} foreground): ours {ours:6.2f} ms, "
                f"class by class {plain:6.2f} ms, {plain / ours:.1f} times"
            )


if __name__ == "__main__":
    main()
