"""Which cases each step sees: labelled and unlabelled ones, every batch a function of (seed, stage, step) alone.

Nothing has to be stored to resume: step t of a stage is the same batch with the same augmentation in every run of that seed.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np


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


class StreamSampler:
    """Batches of `labelled_bs` of the first `labelled` cases, then `unlabelled_bs` of the `unlabelled` ones after them, for `steps`.

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
        raise TypeError(f"{type(self).__name__} has no epochs")

    def cases(self, step: int) -> tuple[list[int], list[int]]:
        """The labelled and the unlabelled cases of one step, of all processes together."""
        raise TypeError(f"{type(self).__name__} draws no cases")

    def batch(self, step: int) -> list[Draw]:
        """This process's draws of one step, labelled ones first."""
        return [
            Draw(index, (*self.seed, 2, step, offset + place), int(2 * place >= len(stream)))
            for stream, offset in zip(self.cases(step), (0, self.labelled_bs), strict=True)
            for place, index in self._share(list(enumerate(stream)))
        ]

    def _share(self, stream: list) -> list:
        half = len(stream) // 2
        return [
            item
            for part in (stream[:half], stream[half:])
            for item in part[self.rank :: self.world]
        ]

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[Draw]]:
        return map(self.batch, self.steps)


class TwoStreamSampler(StreamSampler):
    """An epoch is one shuffled pass over the labelled cases in full batches; its unlabelled cases come from shuffled passes that begin
    anew with every epoch, as published. Fewer labelled cases than a batch holds (where the published code has no epoch) fill it anyway."""

    @property
    def epoch(self) -> int:
        return max(self.labelled // self.labelled_bs, 1)

    def cases(self, step: int, loader: tuple[int, ...] = ()) -> tuple[list[int], list[int]]:
        """`loader`: a number that sets apart what several loaders of one seed draw."""
        epoch, place = divmod(step, self.epoch)
        if self.labelled < self.labelled_bs:
            chosen = endless(self.labelled, 0, self.labelled_bs, (*self.seed, 0, epoch, *loader))
        else:
            shuffled = np.random.default_rng((*self.seed, 0, epoch, *loader)).permutation(
                self.labelled
            )
            chosen = shuffled[place * self.labelled_bs : (place + 1) * self.labelled_bs].tolist()
        others = endless(
            self.unlabelled,
            place * self.unlabelled_bs,
            self.unlabelled_bs,
            (*self.seed, 1, epoch, *loader),
        )
        return chosen, [self.labelled + i for i in others]


class TwoPassSampler(TwoStreamSampler):
    """CoGRNet's two loaders: each shuffles for itself, half a of a batch comes from the first one's, half b from the second one's."""

    def cases(self, step: int) -> tuple[list[int], list[int]]:
        first, second = (TwoStreamSampler.cases(self, step, (loader,)) for loader in (0, 1))
        return tuple(
            a[: len(a) // 2] + b[len(b) // 2 :] for a, b in zip(first, second, strict=True)
        )


class FourStreamSampler(StreamSampler):
    """The pancreas method's batches: half a of each stream in list order, half b in the reverse order, nothing shuffled.

    An epoch goes through the labelled cases `repeats` times and ends with the shortest stream; what is left over is dropped.
    """

    repeats = 5

    @property
    def epoch(self) -> int:
        return min(len(cases) // half for cases, half in self._streams() if half)

    def _streams(self) -> list[tuple[list[int], int]]:
        """Both lists, and how many cases each of the two directions takes of them a step."""
        others = list(range(self.labelled, self.labelled + self.unlabelled))
        return [
            (list(range(self.labelled)) * self.repeats, self.labelled_bs // 2),
            (others, self.unlabelled_bs // 2),
        ]

    def cases(self, step: int) -> tuple[list[int], list[int]]:
        place = step % self.epoch
        windows = [
            (cases, slice(place * half, (place + 1) * half)) for cases, half in self._streams()
        ]
        labelled, unlabelled = ([*cases[window], *cases[::-1][window]] for cases, window in windows)
        return labelled, unlabelled
