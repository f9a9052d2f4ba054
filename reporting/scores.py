"""Scores over seeds, and paired differences between two methods, of one metric."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.statistics import bootstrap_interval, by_patient, mean_sd, wilcoxon_p

LEVEL = 0.95
"""Level of the bootstrap intervals."""


@dataclass(frozen=True)
class MetricSummary:
    """Mean and standard deviation of a metric over the seeds, whose values are `values`.

    `sd`: None for a single seed.
    """

    mean: float
    sd: float | None
    values: Sequence[float]


@dataclass(frozen=True)
class PairedDifference:
    """Mean of the differences of the cases, bootstrap interval over the patients, and Wilcoxon's p.

    `cases`, `patients`: how many there are.
    """

    difference: float
    low: float
    high: float
    p: float
    cases: int
    patients: int


def summarise_seeds(values: Sequence[float]) -> MetricSummary:
    """Summarise the values of the seeds."""
    mean, sd = mean_sd(values)
    return MetricSummary(mean, sd, values=values)


def paired_difference(
    column: np.ndarray, patients: Sequence[str], seed: int, draws: int
) -> PairedDifference:
    """Return mean, bootstrap interval over the patients and Wilcoxon's p of differences (cases,).

    `patients` (cases,): the patient of each case.
    """
    values = column.tolist()
    low, high = bootstrap_interval(values, seed, draws=draws, level=LEVEL, patients=patients)
    sums, counts = by_patient(values, patients)
    patient_means = sums / counts
    return PairedDifference(
        difference=float(column.mean()),
        low=low,
        high=high,
        p=wilcoxon_p(patient_means.tolist()),
        cases=len(column),
        patients=len(sums),
    )
