"""Time Dice, Jaccard, HD95 and ASD of one pair of masks: evaluation.metrics against medpy.

Our time includes all further metrics.

python benchmarks/metrics.py
"""

import statistics
import sys
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from medpy.metric import binary
from scipy.ndimage import zoom

from benchmarks.timing import median_ratio, time_in_turn
from evaluation.metrics import mask_metrics

RUNS = 7
# name: shape, spacing in mm, half the organ's width as a share of half the image, along each axis
CASES = {
    "atrium 180x140x88": ((180, 140, 88), (0.625, 0.625, 0.625), (0.7, 0.7, 0.7)),
    "cine stack 10x216x256": ((10, 216, 256), (10.0, 1.5, 1.5), (1.1, 0.25, 0.25)),
}


def blob(shape: tuple[int, ...], reach: tuple[float, ...], seed: int) -> np.ndarray:
    """Return a mask of a centred ellipsoid whose uneven surface depends on the seed."""
    random = np.random.default_rng(seed)
    axes = [np.linspace(-1, 1, side) / share for side, share in zip(shape, reach, strict=True)]
    squares = [axis**2 for axis in np.meshgrid(*axes, indexing="ij")]
    factors = [side / 6 for side in shape]
    uneven = zoom(random.normal(size=(6,) * len(shape)), factors, order=1)
    return np.sqrt(sum(squares)) + 0.15 * uneven < 1


def score_by_medpy(
    prediction: np.ndarray, truth: np.ndarray, spacing: tuple[float, ...]
) -> tuple[float, ...]:
    """Return Dice, Jaccard, HD95 and ASD by medpy."""
    return (
        float(binary.dc(prediction, truth)),
        float(binary.jc(prediction, truth)),
        float(binary.hd95(prediction, truth, voxelspacing=spacing)),
        float(binary.asd(prediction, truth, voxelspacing=spacing)),
    )


def score(
    prediction: np.ndarray, truth: np.ndarray, spacing: tuple[float, ...]
) -> tuple[float, ...]:
    """Compute all metrics by evaluation.metrics; return Dice, Jaccard, HD95 and ASD."""
    scores = mask_metrics(prediction, truth, spacing)
    return scores.dice, scores.jaccard, scores.hd95, scores.asd


def main() -> None:
    """Check that both give the same numbers, then print their times."""
    for name, (shape, spacing, reach) in CASES.items():
        prediction = blob(shape, reach, seed=0)
        truth = blob(shape, reach, seed=1)
        scores = score(prediction, truth, spacing)
        expected = score_by_medpy(prediction, truth, spacing)
        np.testing.assert_allclose(scores, expected, rtol=1e-9, atol=1e-9)
        ways = {
            "ours": partial(score, prediction, truth, spacing),
            "medpy": partial(score_by_medpy, prediction, truth, spacing),
        }
        seconds = time_in_turn(ways, RUNS, clock=time.perf_counter)
        print(
            f"{name} (dice {scores[0]:.2f}): ours {statistics.median(seconds['ours']):.4f} s, "
            f"medpy {statistics.median(seconds['medpy']):.4f} s, "
            f"{median_ratio(seconds['medpy'], seconds['ours']):.1f} times as fast, same result"
        )


if __name__ == "__main__":
    main()
