"""The metrics of a predicted mask, and the two conventions for empty masks.

A metric is one function with `@overlap_metric` or `@mask_metric`. Its name is the key in
metrics.csv, summary.json and compare.json. Tests, evaluate.py, reports and comparisons show every
metric that is registered here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from evaluation.masks import TOLERANCE, Counts, Distances, MaskPair, mask_pair

Unit: TypeAlias = Literal["voxel", "mm"]
PUBLISHED = ("dice", "jaccard", "hd95", "asd")  # the metrics of the published test scripts
PERCENTILE = 95
ROUNDING = 1e-9  # relative


@dataclass(frozen=True)
class Metric:
    """What files and tables need to know about a metric.

    `title`: the head of its column. `is_length`: the value is a length, in voxels and in mm;
    otherwise it is a ratio from 0 to 1. `has_tolerance`: the ratio depends on a tolerance
    (`MaskPair.tolerance`), in voxels and in mm. `needs_mm`: it can only be computed where the size
    of a voxel is known in mm.
    """

    name: str
    title: str
    higher_is_better: bool
    is_length: bool = False
    has_tolerance: bool = False
    needs_mm: bool = False

    @property
    def has_unit(self) -> bool:
        """Whether there is one value in voxels and another one in mm."""
        return self.is_length or self.has_tolerance

    def key(self, unit: Unit) -> str:
        """The name in files; it ends in the unit if the value depends on it."""
        if self.has_unit:
            return f"{self.name}_{unit}"
        return self.name

    @property
    def best(self) -> float:
        """The value of a perfect prediction."""
        return float(self.higher_is_better)

    def worst(self, diagonal: float) -> float:
        """The worst possible value; no length exceeds the image's diagonal."""
        if self.is_length:
            return diagonal
        return float(not self.higher_is_better)


OVERLAP_METRICS: dict[str, tuple[Metric, Callable[[Counts], float]]] = {}
"""Metrics that are computed from numbers of voxels, which validations count on the GPU."""
MASK_METRICS: dict[str, tuple[Metric, Callable[[MaskPair], float]]] = {}
"""Metrics that need the masks."""


def overlap_metric(
    title: str, *, higher_is_better: bool = True
) -> Callable[[Callable[[Counts], float]], Callable[[Counts], float]]:
    """Register a function of voxel counts, a ratio from 0 to 1, as a metric. It is not called for
    empty masks."""

    def register(function: Callable[[Counts], float]) -> Callable[[Counts], float]:
        metric = Metric(function.__name__, title, higher_is_better=higher_is_better)
        OVERLAP_METRICS[metric.name] = (metric, function)
        return function

    return register


def mask_metric(
    title: str,
    *,
    higher_is_better: bool,
    is_length: bool = False,
    has_tolerance: bool = False,
    needs_mm: bool = False,
) -> Callable[[Callable[[MaskPair], float]], Callable[[MaskPair], float]]:
    """Register a function of two masks as a metric; see `Metric`.

    It is not called for empty masks.
    """

    def register(function: Callable[[MaskPair], float]) -> Callable[[MaskPair], float]:
        metric = Metric(
            function.__name__,
            title,
            higher_is_better=higher_is_better,
            is_length=is_length,
            has_tolerance=has_tolerance,
            needs_mm=needs_mm,
        )
        MASK_METRICS[metric.name] = (metric, function)
        return function

    return register


@overlap_metric("Dice")
def dice(counts: Counts) -> float:
    """Twice the intersection over the sum of both sizes."""
    return 2.0 * counts.common / (counts.predicted + counts.true)


@overlap_metric("Jaccard")
def jaccard(counts: Counts) -> float:
    """Intersection over union."""
    return counts.common / (counts.predicted + counts.true - counts.common)


@mask_metric("HD95", higher_is_better=False, is_length=True)
def hd95(masks: MaskPair) -> float:
    """95th percentile of the border distances of both directions together, as in medpy."""
    return _percentile(masks.both_directions)


@mask_metric("ASD", higher_is_better=False, is_length=True)
def asd(masks: MaskPair) -> float:
    """Mean distance from the prediction's border to the truth's, as in medpy."""
    return float(masks.to_truth.mean())


@mask_metric("HD95 max", higher_is_better=False, is_length=True)
def hd95_max(masks: MaskPair) -> float:
    """The larger of the 95th percentiles of each direction, as in MONAI."""
    return max(_percentile(masks.to_truth), _percentile(masks.to_prediction))


@mask_metric("ASSD", higher_is_better=False, is_length=True)
def assd(masks: MaskPair) -> float:
    """Mean distance of all border voxels of both masks to the other border.

    As in MONAI (SurfaceDistanceMetric, symmetric) and medpy from 0.5.2. medpy 0.4 averages the
    means of the two directions, which differs if one border has more voxels.
    """
    return float(masks.both_directions.mean())


@mask_metric("NSD", higher_is_better=True, has_tolerance=True)
def nsd(masks: MaskPair) -> float:
    """Share of the border voxels of both masks that are within the tolerance of the other border,
    as in MONAI (SurfaceDiceMetric).

    A distance that exceeds the tolerance only by the rounding of coordinates is within it.
    """
    distances = masks.both_directions
    within = np.count_nonzero(distances <= masks.tolerance * (1 + ROUNDING))
    return float(within / len(distances))


def _percentile(distances: Distances) -> float:
    return float(np.percentile(distances, PERCENTILE))


def all_metrics() -> list[Metric]:
    """All metrics, in the order of tables: overlaps first."""
    return [metric for metric, _ in (*OVERLAP_METRICS.values(), *MASK_METRICS.values())]


def metrics_in(unit: Unit) -> list[Metric]:
    """The metrics that can be computed in that unit."""
    return [metric for metric in all_metrics() if unit == "mm" or not metric.needs_mm]


def spacing_metrics() -> list[Metric]:
    """The metrics whose value in mm is not the one in voxels."""
    return [metric for metric in all_metrics() if metric.has_unit or metric.needs_mm]


@dataclass(frozen=True)
class MaskMetrics:
    """Scores of one prediction against its truth.

    `values`: by the metric's name. Lengths are in the unit of the spacing given to `mask_metrics`
    (voxels if there is none), and nan if a mask is empty; `published_convention` and
    `penalised_convention` replace nan by a number.
    """

    values: Mapping[str, float]
    empty_prediction: bool
    empty_truth: bool

    @property
    def dice(self) -> float:
        """Dice, 0 to 1."""
        return self.values["dice"]

    @property
    def jaccard(self) -> float:
        """Jaccard index, 0 to 1."""
        return self.values["jaccard"]

    @property
    def hd95(self) -> float:
        """95 % Hausdorff distance."""
        return self.values["hd95"]

    @property
    def asd(self) -> float:
        """Average surface distance."""
        return self.values["asd"]


def mask_metrics(
    prediction: ArrayLike,
    truth: ArrayLike,
    spacing: Sequence[float] | None = None,
    *,
    tolerance: float = TOLERANCE,
) -> MaskMetrics:
    """Compare two masks of equal shape, (H, W) or (D, H, W); every non-zero element counts as
    foreground.

    `spacing` is the voxel's size in mm along each axis, in the arrays' own axis order; None means
    voxels, and metrics that need mm are omitted. `tolerance` of NSD is in the same unit. If both
    masks are empty, a ratio has its best value; if one is, its worst. Raises ValueError for shapes
    that differ or are not 2-D or 3-D, and for a spacing that does not fit.
    """
    masks = mask_pair(prediction, truth, spacing, tolerance=tolerance)
    overlap = overlap_metrics(masks.counts)
    values = dict(overlap.values)
    for metric, function in MASK_METRICS.values():
        if metric.needs_mm and spacing is None:
            continue
        if overlap.empty_prediction or overlap.empty_truth:
            values[metric.name] = _value_of_empty(metric, overlap)
        else:
            values[metric.name] = function(masks)
    return replace(overlap, values=values)


def overlap_metrics(counts: Counts) -> MaskMetrics:
    """Return the metrics that follow from voxel counts. Empty masks are treated as in
    `mask_metrics`."""
    metrics = MaskMetrics({}, empty_prediction=counts.predicted == 0, empty_truth=counts.true == 0)
    values: dict[str, float] = {}
    for metric, function in OVERLAP_METRICS.values():
        if metrics.empty_prediction or metrics.empty_truth:
            values[metric.name] = _value_of_empty(metric, metrics)
        else:
            values[metric.name] = function(counts)
    return replace(metrics, values=values)


def class_overlaps(prediction: Tensor, truth: Tensor, classes: int) -> Tensor:
    """Count the voxels of each foreground class in two label maps: predicted, true, and both.

    Returns (classes - 1, 3) int64 on the device of the maps, without waiting for that device.
    """
    counts: list[Tensor] = []
    for number in range(1, classes):
        predicted = prediction == number
        true = truth == number
        common = predicted & true
        row = [predicted.count_nonzero(), true.count_nonzero(), common.count_nonzero()]
        counts.append(torch.stack(row))
    return torch.stack(counts)


def published_convention(metrics: MaskMetrics, worst: float) -> MaskMetrics:
    """Return the scores in the convention of the published code: an empty prediction gets 0 for all
    metrics.

    0 is the best possible distance, so a model that predicts nothing improves its mean distances. A
    correct empty prediction gets Dice 0. If only the truth is empty, the published code stops with
    an error inside medpy; here the scores are the worst ones, see `penalised_convention`.
    """
    if metrics.empty_prediction:
        return replace(metrics, values=dict.fromkeys(metrics.values, 0.0))
    if metrics.empty_truth:
        return _with_worst(metrics, worst)
    return metrics


def penalised_convention(metrics: MaskMetrics, worst: float) -> MaskMetrics:
    """Return the scores in the penalised convention: if exactly one mask is empty, all are the
    worst possible.

    If both are empty, the prediction is perfect. `worst` is the worst distance, in the distances'
    unit, see `masks.image_diagonal`.
    """
    if metrics.empty_prediction and metrics.empty_truth:
        known = {metric.name: metric.best for metric in all_metrics()}
        return replace(metrics, values={name: known[name] for name in metrics.values})
    if metrics.empty_prediction or metrics.empty_truth:
        return _with_worst(metrics, worst)
    return metrics


def _with_worst(metrics: MaskMetrics, worst: float) -> MaskMetrics:
    known = {metric.name: metric.worst(worst) for metric in all_metrics()}
    return replace(metrics, values={name: known[name] for name in metrics.values})


def _value_of_empty(metric: Metric, metrics: MaskMetrics) -> float:
    """The value where a mask is empty: that of a length is not defined."""
    if metric.is_length:
        return np.nan
    if metrics.empty_prediction and metrics.empty_truth:
        return metric.best
    return metric.worst(np.nan)
