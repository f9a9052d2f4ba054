"""Time one process that makes training batches, ours against one transform after the other.

    python benchmarks/data.py

ACDC: 24 slices at 256x256, 12 with labels, of shapes that ACDC has. LA: 8 patches of 112x112x80, 4
with labels. Random images in memory. The first pass, in which tables are made, is reported
separately. Processor time; the two ways take turns, and must give the same bits.
"""

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from torch import Tensor

from dataloaders.augment import Augmentation, VolumeAugmentation, resize, turn_or_rotate
from dataloaders.samples import Samples
from dataloaders.two_stream import Draw, TwoStreamSampler

BATCHES = 60
SHAPES = {
    "ACDC": ((256, 216), (216, 256), (256, 208), (256, 192), (256, 256), (208, 174), (224, 154)),
    "LA": ((140, 150, 88),),
}
SPATIAL = {
    "ACDC": (turn_or_rotate, resize((256, 256))),
    "LA": (VolumeAugmentation((112, 112, 80), spare=3).draw,),
}
COUNTS = {"ACDC": (68, 200, 12), "LA": (4, 8, 4)}  # labelled and unlabelled cases, half a batch

Batch = dict[str, Tensor]


class RandomSamples(Samples):
    """Random images in memory; the labelled ones come first."""

    def __init__(self, dataset: str) -> None:
        """Make the images and labels of all cases."""
        self.labelled, self.unlabelled, self.half = COUNTS[dataset]
        augmentation = Augmentation(SPATIAL[dataset])
        self.augment = (augmentation, augmentation)
        self.kept = []
        rng = np.random.default_rng(0)
        shapes = SHAPES[dataset]
        for index in range(self.labelled + self.unlabelled):
            shape = shapes[index % len(shapes)]
            labels = ()
            if index < self.labelled:
                labels = (rng.integers(0, 4, shape, np.uint8),)
            self.kept.append((rng.random((1, *shape), np.float32), labels))

    def batches(self) -> list[list[Draw]]:
        """Return the draws of all batches."""
        sampler = TwoStreamSampler(
            self.labelled, self.unlabelled, self.half, self.half, seed=(0,), steps=range(BATCHES)
        )
        return list(sampler)


def make_plainly(data: RandomSamples, draws: Sequence[Draw]) -> Batch:
    """Make a batch by the plain formula.

    It uses scipy's rotation, numpy's indexing, a contiguous copy, 64-bit class numbers and a stack.
    """
    images: list[Tensor] = []
    labels: list[Tensor] = []
    for draw in draws:
        image, label = data.case(draw.case)
        rng = np.random.default_rng(draw.seed)
        arrays = [np.asarray(array) for array in (image, *label)]
        for spatial in data.augment[0].spatial:
            transform = spatial(rng, arrays[0].shape[1:])
            arrays = [np.asarray(transform(array)) for array in arrays]
        tensors = [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]
        images.append(tensors[0])
        labels += [tensor.long() for tensor in tensors[1:]]
    return {"image": torch.stack(images), "label": torch.stack(labels)}


def timed(make: Callable[[], Batch]) -> tuple[Batch, float]:
    """Return a batch and the milliseconds of this thread that it took."""
    start = time.thread_time()
    batch = make()
    return batch, 1000 * (time.thread_time() - start)


def time_pass(data: RandomSamples, batches: Sequence[list[Draw]]) -> tuple[float, float]:
    """Return the median milliseconds of a batch, ours and plain; they must be equal."""
    ours_ms: list[float] = []
    plain_ms: list[float] = []
    for draws in batches:
        ours, milliseconds = timed(lambda draws=draws: data.__getitems__(draws))
        ours_ms.append(milliseconds)
        plain, milliseconds = timed(lambda draws=draws: make_plainly(data, draws))
        plain_ms.append(milliseconds)
        assert all(torch.equal(ours[key], plain[key]) for key in ours)
    return statistics.median(ours_ms), statistics.median(plain_ms)


def main() -> None:
    """Print the times of the first pass and of a later one, for both data sets."""
    for dataset in SHAPES:
        data = RandomSamples(dataset)
        batches = data.batches()
        for name in ("first pass", "then"):
            ours, plain = time_pass(data, batches)
            print(
                f"{dataset:<5}{name:<11}: ours {ours:6.1f} ms per batch, "
                f"one by one {plain:6.1f} ms, {plain / ours:.1f} times"
            )


if __name__ == "__main__":
    main()
