"""Milliseconds that the component filter takes for the pseudo labels of a step, ours against class by class.

    python benchmarks/filter.py

ACDC: twelve slices of four classes, 256x256, connectivity 8; LA: two patches of two classes, 112x112x80, connectivity 26. Smooth label maps
(as a trained network's), the same with specks, random numbers (as no network's). Processor time of this thread, the two in turn.
"""

import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cc3d
import numpy as np
from scipy.ndimage import gaussian_filter

from utils.components import largest_component_per_class

RUNS = 15
SHAPES = {"ACDC": ((12, 256, 256), 4, 8), "LA": ((2, 112, 112, 80), 2, 26)}


def class_by_class(labels: np.ndarray, classes: int, connectivity: int) -> np.ndarray:
    """The plain formula: one call for each class of each sample, on the whole image."""
    kept = np.zeros_like(labels)
    for sample, result in zip(labels, kept, strict=True):
        for label in range(1, classes):
            components = cc3d.connected_components(
                (sample == label).view(np.uint8), connectivity=connectivity
            )
            sizes = np.bincount(components.ravel())
            if len(sizes) > 1:
                result[components == sizes[1:].argmax() + 1] = label
    return kept


def label_maps(shape: tuple[int, ...], classes: int) -> dict[str, np.ndarray]:
    """An organ in the middle, each class within the last; specks on one voxel of a hundred."""
    rng = np.random.default_rng(0)
    centred = np.meshgrid(*(np.linspace(-1, 1, side) for side in shape[1:]), indexing="ij")
    radius = np.sqrt(sum(axis**2 for axis in centred)) + 2 * np.stack(
        [gaussian_filter(rng.normal(size=shape[1:]), 6) for _ in range(shape[0])]
    )
    smooth = (
        (classes - np.digitize(radius, np.linspace(0.45, 0.15, classes - 1)[::-1]) - 1)
        .clip(0)
        .astype(np.uint8)
    )
    specks = np.where(rng.random(shape) < 0.01, rng.integers(0, classes, shape), smooth).astype(
        np.uint8
    )
    return {
        "smooth": smooth,
        "specks": specks,
        "random": rng.integers(0, classes, shape).astype(np.uint8),
    }


def main() -> None:
    for dataset, (shape, classes, connectivity) in SHAPES.items():
        for kind, labels in label_maps(shape, classes).items():
            taken = {largest_component_per_class: [], class_by_class: []}
            for _ in range(RUNS):
                results = []
                for filtered, seconds in taken.items():
                    began = time.thread_time()
                    results.append(filtered(labels, classes, connectivity))
                    seconds.append(time.thread_time() - began)
                np.testing.assert_array_equal(*results)
            ours, plain = (1000 * statistics.median(seconds) for seconds in taken.values())
            about = (
                f"{dataset:<5}{kind:<7} ({np.count_nonzero(labels) / labels.size:.0%} foreground)"
            )
            print(
                f"{about}: ours {ours:6.2f} ms, class by class {plain:6.2f} ms, {plain / ours:.1f} times"
            )


if __name__ == "__main__":
    main()
