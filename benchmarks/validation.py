"""Time the parts of a validation other than the network, ours against the plain way.

    python benchmarks/validation.py

The parts: add one window of LA (2 x 112x112x80) to the sums of its volume; find the most probable
class of a slab; compute Dice of twenty ACDC volumes (10x216x256, 3 classes), without and with
distances. Processor time; the two ways are timed in turn; medians.
"""

import statistics
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from benchmarks.timing import time_in_turn
from evaluation.metrics import class_overlaps
from evaluation.scores import score_case
from utils.case import Case
from utils.label_maps import most_probable

RUNS = 9
NAMES = ("background", "right ventricle", "myocardium", "left ventricle")


def compare(
    title: str, ours: Callable[[], object], plain: Callable[[], object], times: int = 1
) -> None:
    """Print the median milliseconds of `times` calls of both functions."""
    seconds = time_in_turn({"ours": ours, "plain": plain}, RUNS)
    ours_ms = 1000 * times * statistics.median(seconds["ours"])
    plain_ms = 1000 * times * statistics.median(seconds["plain"])
    ratio = plain_ms / ours_ms
    print(f"{title}: ours {ours_ms:.2f} ms, plain {plain_ms:.2f} ms, {ratio:.1f} times")


def compare_windows() -> None:
    """Add a window to the sums of a volume, in the network's memory layout and in the default."""
    window = torch.rand(1, 2, 112, 112, 80)
    window = window.contiguous(memory_format=torch.channels_last_3d)[0]  # as networks return it
    same_layout = torch.zeros(112, 180, 140, 2).movedim(-1, 0)
    default_layout = torch.zeros(2, 112, 180, 140)
    position = (slice(None), slice(0, 112), slice(10, 122), slice(10, 90))
    compare(
        "a window added",
        ours=lambda: same_layout[position].add_(window),
        plain=lambda: default_layout[position].add_(window),
    )


def compare_classes() -> None:
    """Find the most probable class of every voxel of a slab."""
    scores = torch.rand(2, 112, 180, 140)
    compare(
        "classes of a slab",
        ours=lambda: most_probable(scores),
        plain=lambda: scores.argmax(0).to(torch.uint8),
    )


def compare_scores() -> None:
    """Score a volume: only Dice, and Dice with distances."""
    z, y, x = np.ogrid[:10, :216, :256]
    radius = np.hypot(y - 108, x - 128) + 0 * z
    label = np.digitize(-radius, [-60, -45, -30]).astype(np.uint8)
    shift = np.random.default_rng(0).integers(2, 5)
    prediction = np.roll(label, shift, axis=1)
    case = Case("case", label[None].astype(np.float32), label)
    predicted = torch.from_numpy(prediction)
    truth = torch.from_numpy(label)
    compare(
        "Dice of twenty volumes, plain with distances",
        ours=lambda: class_overlaps(predicted, truth, 4).tolist(),
        plain=lambda: score_case(case, prediction, NAMES, with_mm=False),
        times=20,
    )


def main() -> None:
    """Time the three parts on one thread."""
    torch.set_num_threads(1)
    compare_windows()
    compare_classes()
    compare_scores()


if __name__ == "__main__":
    main()
