"""Which labelled and unlabelled cases each step sees. Every batch is a function of
(seed, stage, step) only.

Nothing has to be stored to resume: step t of a stage is the same batch with the same augmentation
in every run of that seed.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np


class Draw(NamedTuple):
    """One sample of a batch: the number of its case, the seed of its augmentation, and its half of
    the stream (0: a, 1: b).
    """

    case: int
    seed: tuple[int, ...]
    half: int = 0


def endless(count: int, start: int, length: int, seed: tuple[int, ...]) -> list[int]:
    """Elements start .. start + length - 1 of an endless sequence of shuffled passes over 0 ..
    count - 1.
    """
    passes: dict[int, np.ndarray] = {}
    chosen: list[int] = []
    for position in range(start, start + length):
        number, place = divmod(position, count)
        if number not in passes:
            passes[number] = np.random.default_rng((*seed, number)).permutation(count)
        chosen.append(int(passes[number][place]))
    return chosen


class StreamSampler:
    """Batches of `labelled_bs` of the first `labelled` cases, then `unlabelled_bs` of the
    `unlabelled` ones after them, for `steps`.

    With several processes each gets its share of both halves (a, b) of both streams; `labelled_bs`
    and `unlabelled_bs` are the batch sizes of all processes together.
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
    ) -> None:
        self.labelled = labelled
        self.unlabelled = unlabelled
        self.labelled_bs = labelled_bs
        self.unlabelled_bs = unlabelled_bs
        self.seed = seed
        self.steps = steps
        self.rank = rank
        self.world = world

    @property
    def epoch(self) -> int:
        """Steps of an epoch."""
        raise TypeError(f"{type(self).__name__} has no epochs")

    def cases(self, step: int) -> tuple[list[int], list[int]]:
        """The labelled and the unlabelled cases of one step, of all processes together."""
        raise TypeError(f"{type(self).__name__} draws no cases")

    def batch(self, step: int) -> list[Draw]:
        """This process's draws of one step, labelled ones first."""
        labelled, unlabelled = self.cases(step)
        return [
            *self._draws(labelled, step, offset=0),
            *self._draws(unlabelled, step, offset=self.labelled_bs),
        ]

    def _draws(self, stream: list[int], step: int, offset: int) -> list[Draw]:
        """This process's draws of one stream, whose first case has the place `offset` in the batch
        of all processes.
        """
        middle = len(stream) // 2
        halves = (range(middle), range(middle, len(stream)))
        draws: list[Draw] = []
        for half in halves:
            for place in half[self.rank :: self.world]:
                seed = (*self.seed, 2, step, offset + place)
                draws.append(Draw(stream[place], seed, half=int(2 * place >= len(stream))))
        return draws

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[Draw]]:
        return map(self.batch, self.steps)


class TwoStreamSampler(StreamSampler):
    """An epoch is one shuffled pass over the labelled cases in full batches. Its unlabelled cases
    come from shuffled passes that start again with every epoch, as published. Where there are fewer
    labelled cases than a batch has (the published code has no epoch then), they are repeated.
    """

    @property
    def epoch(self) -> int:
        """Number of steps in which each labelled case is drawn once."""
        return max(self.labelled // self.labelled_bs, 1)

    def cases(self, step: int) -> tuple[list[int], list[int]]:
        """Return the labelled and the unlabelled cases of a step."""
        return self._shuffled(step, loader=())

    def _shuffled(self, step: int, loader: tuple[int, ...]) -> tuple[list[int], list[int]]:
        """`loader`: a number that distinguishes the shuffles of several loaders with one seed."""
        epoch, place = divmod(step, self.epoch)
        if self.labelled < self.labelled_bs:
            chosen = endless(self.labelled, 0, self.labelled_bs, (*self.seed, 0, epoch, *loader))
        else:
            rng = np.random.default_rng((*self.seed, 0, epoch, *loader))
            shuffled = rng.permutation(self.labelled)
            first = place * self.labelled_bs
            chosen = shuffled[first : first + self.labelled_bs].tolist()
        others = endless(
            self.unlabelled,
            place * self.unlabelled_bs,
            self.unlabelled_bs,
            (*self.seed, 1, epoch, *loader),
        )
        return chosen, [self.labelled + i for i in others]


class TwoPassSampler(TwoStreamSampler):
    """CoGRNet's two loaders: each has its own shuffles; half a of a batch is from the first loader,
    half b from the second.
    """

    def cases(self, step: int) -> tuple[list[int], list[int]]:
        """Return the labelled and the unlabelled cases of a step."""
        labelled_a, unlabelled_a = self._shuffled(step, loader=(0,))
        labelled_b, unlabelled_b = self._shuffled(step, loader=(1,))
        return _halves_of(labelled_a, labelled_b), _halves_of(unlabelled_a, unlabelled_b)


def _halves_of(first: list[int], second: list[int]) -> list[int]:
    """The first half of `first` and the second half of `second`."""
    return first[: len(first) // 2] + second[len(second) // 2 :]


class FourStreamSampler(StreamSampler):
    """The pancreas method's batches: half a of each stream in list order, half b in the reverse
    order, nothing shuffled.

    An epoch goes through the labelled cases `repeats` times and ends with the shortest stream; the
    rest of the others is dropped.
    """

    repeats = 5

    @property
    def epoch(self) -> int:
        """Number of steps until the shortest stream ends."""
        streams = (
            (self._labelled_cases(), self.labelled_bs // 2),
            (self._unlabelled_cases(), self.unlabelled_bs // 2),
        )
        return min(len(cases) // half for cases, half in streams if half)

    def _labelled_cases(self) -> list[int]:
        return list(range(self.labelled)) * self.repeats

    def _unlabelled_cases(self) -> list[int]:
        return list(range(self.labelled, self.labelled + self.unlabelled))

    def cases(self, step: int) -> tuple[list[int], list[int]]:
        """Return the labelled and the unlabelled cases of a step."""
        place = step % self.epoch
        labelled = _from_both_ends(self._labelled_cases(), place, half=self.labelled_bs // 2)
        unlabelled = _from_both_ends(self._unlabelled_cases(), place, half=self.unlabelled_bs // 2)
        return labelled, unlabelled


class TenfoldFourStreamSampler(FourStreamSampler):
    """As published with 10 % of the cases: an epoch goes through the labelled cases ten times."""

    repeats = 10


def _from_both_ends(cases: list[int], place: int, half: int) -> list[int]:
    """The `half` cases of step `place` of an epoch in list order, then in the reverse order."""
    window = slice(place * half, (place + 1) * half)
    backwards = cases[::-1]
    return [*cases[window], *backwards[window]]
