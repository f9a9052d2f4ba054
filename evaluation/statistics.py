"""Means over seeds, and whether two methods differ on the same cases."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats  # pyright: ignore[reportMissingTypeStubs]


def mean_sd(values: ArrayLike) -> tuple[float, float | None]:
    """Return mean and standard deviation (n - 1); the deviation of a single value is None."""
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
    """Return the bootstrap percentile interval of the mean of differences (cases,).

    It is reproducible for each seed.

    `patients` (cases,): the patient of each case. With it, patients are resampled with all their
    cases instead of single cases.
    """
    sums, counts = by_patient(differences, patients)
    drawn = np.random.default_rng(seed).integers(len(sums), size=(draws, len(sums)))
    means: NDArray[np.float64] = sums[drawn].sum(1) / counts[drawn].sum(1)
    low = np.quantile(means, (1 - level) / 2)
    high = np.quantile(means, (1 + level) / 2)
    return float(low), float(high)


def by_patient(
    values: ArrayLike, patients: Sequence[str] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return for each patient the sum over their cases and the number of cases.

    Without `patients`, each case is a patient.
    """
    numbers = np.asarray(values, float)
    if patients is None:
        return numbers, np.ones(len(numbers))
    _, patient = np.unique(patients, return_inverse=True)
    return np.bincount(patient, numbers), np.bincount(patient).astype(float)


def wilcoxon_p(differences: ArrayLike) -> float:
    """Return the two-sided p of Wilcoxon's signed-rank test of paired differences (cases,).

    Cases without difference are omitted; p is 1 if no case differs. Differences are rounded to nine
    decimals, so that equal differences of rounded numbers are ties.
    """
    rounded = np.round(np.asarray(differences, float), 9)
    # scipy would omit zeros too, but then use the normal distribution even for few cases.
    differing = rounded[rounded != 0]
    if not differing.size:
        return 1.0
    result: Any = stats.wilcoxon(differing)  # pyright: ignore
    return float(result.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values corrected for multiple tests by Holm's method (1979), in their order.

    The k-th smallest of n (from 0) is multiplied by n - k; none is below one that was smaller.
    """
    corrected = [0.0] * len(p_values)
    largest = 0.0
    order = sorted(range(len(p_values)), key=lambda number: p_values[number])
    for position, number in enumerate(order):
        largest = max(largest, min(1.0, p_values[number] * (len(p_values) - position)))
        corrected[number] = largest
    return corrected
