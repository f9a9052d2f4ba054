"""Means over seeds, and whether two methods differ on the same cases."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import wilcoxon


def mean_sd(values: ArrayLike) -> tuple[float, float | None]:
    """Mean and standard deviation (n - 1); None for the deviation of a single value."""
    numbers = np.asarray(values, float)
    mean = float(numbers.mean())
    if len(numbers) < 2:
        return mean, None
    return mean, float(numbers.std(ddof=1))


def bootstrap_interval(
    differences: ArrayLike,
    seed: int,
    draws: int = 10_000,
    level: float = 0.95,
    patients: Sequence[str] | None = None,
) -> tuple[float, float]:
    """Percentile interval of the mean difference (cases,) when cases are drawn again, with replacement; the same for the same seed.
    `patients` (cases,): whose each case is; then patients are drawn, each with all cases."""
    sums, counts = by_patient(differences, patients)
    drawn = np.random.default_rng(seed).integers(len(sums), size=(draws, len(sums)))
    low, high = np.quantile(
        sums[drawn].sum(1) / counts[drawn].sum(1), ((1 - level) / 2, (1 + level) / 2)
    )
    return float(low), float(high)


def by_patient(
    values: ArrayLike, patients: Sequence[str] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The sum over the cases of each patient, and how many there are; every case by itself where `patients` is None."""
    numbers = np.asarray(values, float)
    if patients is None:
        return numbers, np.ones(len(numbers))
    _, patient = np.unique(patients, return_inverse=True)
    return np.bincount(patient, numbers), np.bincount(patient).astype(float)


def wilcoxon_p(differences: ArrayLike) -> float:
    """Two-sided p of Wilcoxon's signed-rank test of the paired differences (cases,), cases without difference left out; 1 if all are.

    Differences are compared to nine decimals, so that equal ones of rounded figures are ties.
    """
    rounded = np.round(np.asarray(differences, float), 9)
    if not rounded.any():
        return 1.0
    result: Any = wilcoxon(rounded)
    return float(result.pvalue)
