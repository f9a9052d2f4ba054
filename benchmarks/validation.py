"""Milliseconds that the parts of a validation take beside the network itself, ours against the plain way.

    python benchmarks/validation.py

One window of LA (2 x 112x112x80) added to the sums of its volume; the most probable class of a slab; the figures of twenty ACDC volumes
(10x216x256, 3 classes): Dice alone against Dice and distances. Processor time, the two in turn, medians.
"""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from evaluation.metrics import class_overlaps
from evaluation.scores import score_case
from utils.case import Case
from utils.most_probable import most_probable

RUNS = 9
NAMES = ("background", "right ventricle", "myocardium", "left ventricle")


def compare(
    about: str, ours: Callable[[], object], plain: Callable[[], object], times: int = 1
) -> None:
    taken = {ours: [], plain: []}
    for _ in range(RUNS):
        for function, seconds in taken.items():
            began = time.thread_time()
            function()
            seconds.append(1000 * times * (time.thread_time() - began))
    mine, other = (statistics.median(seconds) for seconds in taken.values())
    print(f"{about}: ours {mine:.2f} ms, plain {other:.2f} ms, {other / mine:.1f} times")


def main() -> None:
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    window = torch.rand(1, 2, 112, 112, 80).contiguous(memory_format=torch.channels_last_3d)[
        0
    ]  # as the network gives it on the CPU
    alike, other = torch.zeros(112, 180, 140, 2).movedim(-1, 0), torch.zeros(2, 112, 180, 140)
    place = (slice(None), slice(0, 112), slice(10, 122), slice(10, 90))
    compare("a window added", lambda: alike[place].add_(window), lambda: other[place].add_(window))
    scores = torch.rand(2, 112, 180, 140)
    compare(
        "classes of a slab", lambda: most_probable(scores), lambda: scores.argmax(0).to(torch.uint8)
    )

    z, y, x = np.ogrid[:10, :216, :256]
    label = np.digitize(-(np.hypot(y - 108, x - 128) + 0 * z), [-60, -45, -30]).astype(np.uint8)
    case, prediction = (
        Case("case", label[None].astype(np.float32), label),
        np.roll(label, rng.integers(2, 5), 1),
    )
    here, truth = torch.from_numpy(prediction), torch.from_numpy(label)
    compare(
        "Dice of twenty volumes, plain with distances",
        lambda: class_overlaps(here, truth, 4).tolist(),
        lambda: score_case(case, prediction, NAMES, with_mm=False),
        times=20,
    )


if __name__ == "__main__":
    main()
