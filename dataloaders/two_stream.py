"""Which cases each step sees: labelled and unlabelled ones, every batch a function of (seed, stage, step) alone.

Nothing has to be stored to resume: step t of a stage is the same batch with the same augmentation in every run of that seed.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Draw(NamedTuple):
    """One sample of a batch: the case's index, the seed of its augmentation, and which half (0: a, 1: b) of its stream it is in."""

    index: int
    seed: tuple[int, ...]
    half: int = 0


def endless(count: int, start: int, length: int, seed: tuple[int, ...]) -> list[int]:
    """Positions start .. start + length - 1 of an endless row of shuffled passes over 0 .. count - 1."""
    passes = {}
    for position in range(start, start + length):
        number = position // count
        if number not in passes:
            passes[number] = np.random.default_rng((*seed, number)).permutation(count)
    return [int(passes[p // count][p % count]) for p in range(start, start + length)]


class TwoStreamSampler:
    """Batches of `labelled_bs` of the first `labelled` cases, then `unlabelled_bs` of the `unlabelled` ones after them.

    An epoch is one shuffled pass over the labelled cases in full batches; unlabelled cases come from endless shuffled passes.
    With several processes each takes its share of every half (a, b) of both streams; `labelled_bs` and `unlabelled_bs` are the
    numbers of all processes together.
    """

    def __init__(
        self,
        labelled: int,
        unlabelled: int,
        labelled_bs: int,
        unlabelled_bs: int,
        seed: tuple[int, ...],
        steps: range,
        rank: int = 0,
        world: int = 1,
    ):
        self.labelled, self.unlabelled = labelled, unlabelled
        self.labelled_bs, self.unlabelled_bs = labelled_bs, unlabelled_bs
        self.seed, self.steps, self.rank, self.world = seed, steps, rank, world

    @property
    def epoch(self) -> int:
        """Steps of an epoch."""
        return self.labelled // self.labelled_bs

    def __len__(self) -> int:
        return len(self.steps)

    def batch(self, step: int) -> list[Draw]:
        """The draws of one step, labelled ones first."""
        epoch, place = divmod(step, self.epoch)
        shuffled = np.random.default_rng((*self.seed, 0, epoch)).permutation(self.labelled)
        chosen = shuffled[place * self.labelled_bs : (place + 1) * self.labelled_bs].tolist()
        start = step * self.unlabelled_bs
        others = [self.labelled + i for i in endless(self.unlabelled, start, self.unlabelled_bs, (*self.seed, 1))]
        return [
            Draw(index, (*self.seed, 2, step, slot), int(2 * (slot - offset) >= len(stream)))
            for stream, offset in ((chosen, 0), (others, self.labelled_bs))
            for slot, index in share(list(enumerate(stream, offset)), self.rank, self.world)
        ]

    def __iter__(self) -> Iterator[list[Draw]]:
        return map(self.batch, self.steps)


def share(stream: list, rank: int, world: int) -> list:
    """What one process takes of a stream: its part of the first half, then of the second."""
    half = len(stream) // 2
    return [item for part in (stream[:half], stream[half:]) for item in part[rank::world]]


class FourStreamSampler:
    """The pancreas method's batches: half a of each stream in list order, half b in the reverse order, nothing shuffled.

    An epoch goes through the `labelled` cases `repeats` times and ends with the shortest stream; what is left over is dropped.
    Arguments as for `TwoStreamSampler`.
    """

    def __init__(
        self,
        labelled: int,
        unlabelled: int,
        labelled_bs: int,
        unlabelled_bs: int,
        seed: tuple[int, ...],
        steps: range,
        rank: int = 0,
        world: int = 1,
        repeats: int = 5,
    ):
        self.seed, self.steps, self.rank, self.world = seed, steps, rank, world
        self.streams = [(list(range(labelled)) * repeats, labelled_bs // 2)]
        if unlabelled_bs:
            self.streams.append((list(range(labelled, labelled + unlabelled)), unlabelled_bs // 2))

    @property
    def epoch(self) -> int:
        """Steps of an epoch."""
        return min(len(cases) // half for cases, half in self.streams)

    def __len__(self) -> int:
        return len(self.steps)

    def batch(self, step: int) -> list[Draw]:
        """The draws of one step, labelled ones first."""
        place, chosen, slot = step % self.epoch, [], 0
        for cases, half in self.streams:
            window = slice(place * half, (place + 1) * half)
            stream = list(enumerate([*cases[window], *cases[::-1][window]], slot))
            chosen += [Draw(index, (*self.seed, 2, step, number)) for number, index in share(stream, self.rank, self.world)]
            slot += len(stream)
        return chosen

    def __iter__(self) -> Iterator[list[Draw]]:
        return map(self.batch, self.steps)


def collate(items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Stack a batch whose labelled samples come first: "image" of all of them, "label" of the labelled ones."""
    return {
        "image": torch.stack([item["image"] for item in items]),
        "label": torch.stack([item["label"] for item in items if "label" in item]),
    }
