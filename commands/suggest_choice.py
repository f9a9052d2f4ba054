"""Choose the cases, and the two slices of a case, that are worth annotating next."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from utils.axes import other_axes

Strategy = Literal["combined", "uncertainty", "diverse", "random"]
POOL = 4
"""combined chooses among this many times as many cases as are asked for: the most uncertain ones.
"""
Vectors = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Candidate:
    """A predicted case.

    `uncertainty`: its mean; infinite for a case without predicted foreground. `volumes`: voxels of
    each predicted foreground class. `feature`: the network's mean feature, None if not needed.
    """

    name: str
    uncertainty: float
    volumes: tuple[int, ...]
    feature: NDArray[np.float32] | None = None


def choose(
    candidates: Sequence[Candidate],
    labelled: Sequence[Candidate],
    count: int,
    strategy: Strategy,
    seed: int,
) -> list[Candidate]:
    """Choose `count` of the candidates, the best one first; all of them if there are fewer.

    `uncertainty`: the most uncertain ones. `diverse`: k-center greedy, which takes in turn the case
    that is farthest from all labelled and chosen ones (`points` are what is compared). `combined`:
    the same among the most uncertain ones, beginning with the most uncertain one if nothing is
    labelled. `random`: drawn with `seed`.
    """
    if strategy == "random":
        order = np.random.default_rng(seed).permutation(len(candidates))
        return [candidates[number] for number in order[:count]]
    ranked = sorted(candidates, key=lambda case: (-case.uncertainty, case.name))
    if strategy == "uncertainty":
        return ranked[:count]
    pool = ranked
    if strategy == "combined":
        pool = ranked[: POOL * count]
    vectors = points([*pool, *labelled])
    first = 0
    if strategy == "diverse":
        first = nearest_to_mean(vectors[: len(pool)])
    chosen = k_center(vectors[: len(pool)], vectors[len(pool) :], count, first=first)
    return [pool[number] for number in chosen]


def points(cases: Sequence[Candidate]) -> Vectors:
    """Describe each case by a vector: its mean feature and the volumes of its classes.

    Both parts have the same share of the distances. In each, every number is relative to its mean
    and standard deviation over the cases, so that a small class counts as much as a large one.
    """
    features = np.array([case.feature for case in cases], np.float64)
    volumes = np.log1p(np.array([case.volumes for case in cases], np.float64))
    return np.concatenate([_standardised(features), _standardised(volumes)], axis=1)


def _standardised(values: Vectors) -> Vectors:
    """Columns with mean 0 and standard deviation 1, divided by the root of their number."""
    deviation = values.std(0)
    deviation[deviation == 0] = 1
    return (values - values.mean(0)) / deviation / np.sqrt(values.shape[1])


def nearest_to_mean(vectors: Vectors) -> int:
    """The number of the vector that is nearest to the mean of all."""
    return int(np.linalg.norm(vectors - vectors.mean(0), axis=1).argmin())


def k_center(vectors: Vectors, centers: Vectors, count: int, first: int) -> list[int]:
    """Choose `count` of the vectors (n, d) by k-center greedy (Sener & Savarese, ICLR 2018).

    The next one is always the farthest from its nearest center, where the chosen ones are centers
    too. `centers` (m, d): those from the beginning; if there are none, the vector `first` is chosen
    first. Of equal distances the first counts.
    """
    distances = np.full(len(vectors), np.inf)
    for center in centers:
        distances = np.minimum(distances, np.linalg.norm(vectors - center, axis=1))
    chosen: list[int] = []
    for _ in range(min(count, len(vectors))):
        number = int(distances.argmax())
        if not chosen and not len(centers):
            number = first
        chosen.append(number)
        distances = np.minimum(distances, np.linalg.norm(vectors - vectors[number], axis=1))
        distances[chosen] = -1
    return chosen


def best_slice(labels: np.ndarray, uncertainty: np.ndarray, axis: int) -> int:
    """The slice along `axis` with the most uncertainty among those that show the most classes.

    `labels` (label values, 0 the background) and `uncertainty` are volumes of one shape.
    """
    others = other_axes(labels.ndim, axis)
    classes = np.zeros(labels.shape[axis], np.int64)
    for value in np.unique(labels):
        if value != 0:
            classes += (labels == value).any(axis=others)
    mass = uncertainty.sum(axis=others, dtype=np.float64)
    mass[classes < classes.max()] = -1
    return int(mass.argmax())
