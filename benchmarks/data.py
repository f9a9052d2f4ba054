"""Milliseconds that one process takes for a training batch: ours against one transform after the other.

    python benchmarks/data.py

ACDC: 24 slices at 256x256, 12 with labels, of shapes that ACDC has; LA: 8 patches of 112x112x80, 4 with labels. Random images in memory;
the first pass over the draws, in which tables are made, is told apart. Processor time, the two in turn, the same bits (a check).
"""

import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

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


class Random(Samples):
    def __init__(self, dataset: str):
        self.labelled, self.unlabelled, self.half = COUNTS[dataset]
        self.augment = 2 * (Augmentation(SPATIAL[dataset]),)
        rng, shapes = np.random.default_rng(0), SHAPES[dataset]
        self.kept = []
        for index in range(self.labelled + self.unlabelled):
            shape = shapes[index % len(shapes)]
            label = (rng.integers(0, 4, shape, np.uint8),) if index < self.labelled else ()
            self.kept.append((rng.random((1, *shape), np.float32), label))


def one_by_one(data: Random, draws: list[Draw]) -> dict[str, torch.Tensor]:
    """The plain formula: scipy's rotation, numpy's picking, a contiguous copy, class numbers in 64 bits, a stack."""
    images, labels = [], []
    for draw in draws:
        image, label = data.case(draw.case)
        rng, arrays = np.random.default_rng(draw.seed), [image, *label]
        for spatial in data.augment[0].spatial:
            transform = spatial(rng, arrays[0].shape[1:])
            arrays = [transform(array) for array in arrays]
        image, *label = (torch.from_numpy(np.ascontiguousarray(array)) for array in arrays)
        images.append(image)
        labels += [one.long() for one in label]
    return {"image": torch.stack(images), "label": torch.stack(labels)}


def main() -> None:
    for dataset in SHAPES:
        data = Random(dataset)
        batches = list(
            TwoStreamSampler(
                data.labelled,
                data.unlabelled,
                data.half,
                data.half,
                seed=(0,),
                steps=range(BATCHES),
            )
        )
        ways = {
            "ours": data.__getitems__,
            "one by one": lambda draws, data=data: one_by_one(data, draws),
        }
        for turn in ("first pass", "then"):
            taken = {name: [] for name in ways}
            for draws in batches:
                made = []
                for name, make in ways.items():
                    began = time.thread_time()
                    made.append(make(draws))
                    taken[name].append(1000 * (time.thread_time() - began))
                assert all(torch.equal(made[0][key], made[1][key]) for key in made[0])
            ours, plain = (statistics.median(times) for times in taken.values())
            print(
                f"{dataset:<5}{turn:<11}: ours {ours:6.1f} ms a batch, one by one {plain:6.1f} ms, {plain / ours:.1f} times"
            )


if __name__ == "__main__":
    main()
