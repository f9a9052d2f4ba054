"""Seconds for dice, jaccard, hd95 and asd of one pair of masks: evaluation.metrics against medpy."""

import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from medpy.metric import binary
from scipy.ndimage import zoom

from evaluation.metrics import mask_metrics

RUNS = 7
# name: shape, spacing in mm, the organ's half-width as a part of the image's in each axis
CASES = {
    "atrium 180x140x88": ((180, 140, 88), (0.625, 0.625, 0.625), (0.7, 0.7, 0.7)),
    "cine stack 10x216x256": ((10, 216, 256), (10.0, 1.5, 1.5), (1.1, 0.25, 0.25)),
}


def blob(shape: tuple[int, ...], reach: tuple[float, ...], seed: int) -> np.ndarray:
    """An ellipsoid with an uneven surface; another seed gives another surface about the same middle."""
    random = np.random.default_rng(seed)
    grid = np.meshgrid(
        *(np.linspace(-1, 1, n) / part for n, part in zip(shape, reach, strict=True)), indexing="ij"
    )
    uneven = zoom(random.normal(size=(6,) * len(shape)), [n / 6 for n in shape], order=1)
    return np.sqrt(sum(axis**2 for axis in grid)) + 0.15 * uneven < 1


def by_medpy(
    prediction: np.ndarray, truth: np.ndarray, spacing: tuple[float, ...]
) -> tuple[float, ...]:
    return (
        binary.dc(prediction, truth),
        binary.jc(prediction, truth),
        binary.hd95(prediction, truth, voxelspacing=spacing),
        binary.asd(prediction, truth, voxelspacing=spacing),
    )


def by_us(
    prediction: np.ndarray, truth: np.ndarray, spacing: tuple[float, ...]
) -> tuple[float, ...]:
    scores = mask_metrics(prediction, truth, spacing)
    return scores.dice, scores.jaccard, scores.hd95, scores.asd


def main() -> None:
    for name, (shape, spacing, reach) in CASES.items():
        pair = blob(shape, reach, 0), blob(shape, reach, 1)
        np.testing.assert_allclose(
            by_us(*pair, spacing), by_medpy(*pair, spacing), rtol=1e-9, atol=1e-9
        )
        seconds = {by_us: [], by_medpy: []}
        for _ in range(RUNS):
            for measure, taken in seconds.items():
                start = time.perf_counter()
                measure(*pair, spacing)
                taken.append(time.perf_counter() - start)
        ours, medpy = (statistics.median(taken) for taken in seconds.values())
        ratio = statistics.median(m / o for o, m in zip(*seconds.values(), strict=True))
        dice = by_us(*pair, spacing)[0]
        print(
            f"{name} (dice {dice:.2f}): ours {ours:.4f} s, medpy {medpy:.4f} s, {ratio:.1f} times as fast, same result"
        )


if __name__ == "__main__":
    main()
