"""Overlap and surface distances of two binary masks, and the two conventions for empty masks."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.spatial import KDTree
from torch import Tensor


@dataclass(frozen=True)
class MaskMetrics:
    """Scores of one prediction against its truth.

    `dice` and `jaccard` lie in 0..1. `hd95` and `asd` are in the unit of the spacing given to `mask_metrics`
    (voxels if there is none). If a mask is empty, `mask_metrics` returns nan for both; `published_convention` and
    `penalised_convention` replace nan by a number.
    """

    dice: float
    jaccard: float
    hd95: float
    asd: float
    empty_prediction: bool
    empty_truth: bool


def mask_metrics(
    prediction: np.ndarray, truth: np.ndarray, spacing: Sequence[float] | None = None
) -> MaskMetrics:
    """Compare two masks of equal shape, (H, W) or (D, H, W); every non-zero element counts as foreground.

    `spacing` is the voxel's size along each axis, in the arrays' own axis order; None means voxels. `hd95` is the 95th
    percentile of the border distances of both directions together, `asd` the mean distance from the prediction's border to
    the truth's. Both follow medpy: neighbours share a face, and a foreground voxel at the edge of the image is border.
    If both masks are empty, dice and jaccard are 1; if one is, they are 0. In both cases the distances are nan.
    Raises ValueError for shapes that differ or are not 2-D or 3-D, and for a spacing that does not fit.
    """
    prediction = np.asarray(prediction, dtype=bool)
    truth = np.asarray(truth, dtype=bool)
    if prediction.shape != truth.shape or prediction.ndim not in (2, 3):
        raise ValueError(
            f"masks must be 2-D or 3-D and of one shape, not {prediction.shape} and {truth.shape}"
        )
    scale = _checked_spacing(spacing, prediction.ndim)
    overlap = overlap_metrics(
        predicted=int(np.count_nonzero(prediction)),
        true=int(np.count_nonzero(truth)),
        common=int(np.count_nonzero(prediction & truth)),
    )
    if overlap.empty_prediction or overlap.empty_truth:
        return overlap

    # The box needs no margin: all voxels outside it are background in both masks, as is everything outside the image.
    box = _joint_box(prediction, truth)
    prediction_border = _border(prediction[box])
    truth_border = _border(truth[box])
    to_truth = _distances(prediction_border, truth_border, scale=scale)
    to_prediction = _distances(truth_border, prediction_border, scale=scale)
    both = np.concatenate((to_truth, to_prediction))
    return replace(overlap, hd95=float(np.percentile(both, 95)), asd=float(to_truth.mean()))


def overlap_metrics(predicted: int, true: int, common: int) -> MaskMetrics:
    """Return dice and jaccard from the numbers of voxels of both masks and of their intersection; the distances are nan.

    Empty masks are treated as in `mask_metrics`.
    """
    total = predicted + true
    if total == 0:
        dice = 1.0
        jaccard = 1.0
    else:
        dice = 2.0 * common / total
        jaccard = common / (total - common)
    return MaskMetrics(
        dice=dice,
        jaccard=jaccard,
        hd95=np.nan,
        asd=np.nan,
        empty_prediction=predicted == 0,
        empty_truth=true == 0,
    )


def class_overlaps(prediction: Tensor, truth: Tensor, classes: int) -> Tensor:
    """Count the voxels of each foreground class in two label maps: predicted, true, and both.

    Returns (classes - 1, 3) int64 on the device of the maps, without waiting for that device.
    """
    counts = []
    for number in range(1, classes):
        predicted = prediction == number
        true = truth == number
        common = predicted & true
        row = [predicted.count_nonzero(), true.count_nonzero(), common.count_nonzero()]
        counts.append(torch.stack(row))
    return torch.stack(counts)


def published_convention(metrics: MaskMetrics, worst: float) -> MaskMetrics:
    """Return the scores in the convention of the published code: an empty prediction gets 0 for all four.

    0 is the best possible distance, so a model that predicts nothing improves its mean distances. A correct empty prediction gets
    dice 0. If only the truth is empty, the published code stops with an error inside medpy; here dice and jaccard are 0 and the
    distances `worst`.
    """
    if metrics.empty_prediction:
        return replace(metrics, dice=0.0, jaccard=0.0, hd95=0.0, asd=0.0)
    if metrics.empty_truth:
        return replace(metrics, hd95=worst, asd=worst)
    return metrics


def penalised_convention(metrics: MaskMetrics, worst: float) -> MaskMetrics:
    """Return the scores in the penalised convention: if exactly one mask is empty, dice and jaccard are 0, the distances `worst`.

    If both are empty, the prediction is perfect: dice and jaccard are 1, distances 0. `worst` is in the distances' unit, see `image_diagonal`.
    """
    if metrics.empty_prediction and metrics.empty_truth:
        return replace(metrics, hd95=0.0, asd=0.0)
    if metrics.empty_prediction or metrics.empty_truth:
        return replace(metrics, hd95=worst, asd=worst)
    return metrics


def image_diagonal(shape: Sequence[int], spacing: Sequence[float] | None = None) -> float:
    """Return the length of the diagonal of an image of `shape` voxels, in the unit of `spacing` (voxels if None).

    No distance inside the image is longer. Raises ValueError for a spacing that does not fit.
    """
    return float(np.linalg.norm(np.asarray(shape) * _checked_spacing(spacing, len(shape))))


def _checked_spacing(spacing: Sequence[float] | None, axes: int) -> np.ndarray:
    if spacing is None:
        return np.ones(axes)
    scale = np.asarray(spacing, dtype=np.float64)
    if scale.shape != (axes,) or not np.all(np.isfinite(scale) & (scale > 0)):
        raise ValueError(
            f"spacing must be {axes} positive numbers, one for each axis, not {spacing}"
        )
    return scale


def _joint_box(first: np.ndarray, second: np.ndarray) -> tuple[slice, ...]:
    union = first | second
    box = []
    for axis in range(union.ndim):
        others = tuple(other for other in range(union.ndim) if other != axis)
        filled = np.flatnonzero(union.any(axis=others))
        box.append(slice(filled[0], filled[-1] + 1))
    return tuple(box)


def _border(mask: np.ndarray) -> np.ndarray:
    """Return the foreground voxels with a face on background or on the array's edge.

    Slicing is about 8 times as fast as scipy's erosion.
    """
    inside = mask.copy()
    for axis in range(mask.ndim):
        inner = np.moveaxis(inside, axis, 0)
        outer = np.moveaxis(mask, axis, 0)
        inner[0] = False
        inner[-1] = False
        inner[1:] &= outer[:-1]
        inner[:-1] &= outer[1:]
    return mask ^ inside


def _distances(start: np.ndarray, target: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return the distance from each voxel of the border `start` to the nearest of `target`, in no particular order."""
    distances = np.zeros(np.count_nonzero(start))
    apart = np.argwhere(start & ~target) * scale
    # Distances are only needed at border voxels, where a tree is faster than a distance transform of the whole box. A tree that
    # is neither balanced nor compact and has large leaves is equally exact, and the fastest for points on a surface.
    tree = KDTree(
        np.argwhere(target) * scale, leafsize=32, balanced_tree=False, compact_nodes=False
    )
    distances[: len(apart)] = tree.query(apart)[0]
    return distances
