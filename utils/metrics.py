"""Overlap and surface distances of two binary masks, and the two conventions for masks that are empty."""

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
    (voxels where none was given); `mask_metrics` leaves them nan where a mask is empty, until `published_convention` or `penalised_convention`
    puts a number there.
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
    the truth's: medpy's definitions, so a voxel at the image's edge is border and faces are the only neighbours.
    Both masks empty: dice and jaccard are 1; one empty: they are 0; in both cases the distances are nan.
    Raises ValueError for shapes that differ or are not 2-D or 3-D, and for a spacing that does not fit.
    """
    prediction, truth = np.asarray(prediction, dtype=bool), np.asarray(truth, dtype=bool)
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

    # No margin is needed: what lies outside the box is background in both masks, and so is what lies outside the image.
    box = _joint_box(prediction, truth)
    prediction, truth = prediction[box], truth[box]
    prediction_border, truth_border = _border(prediction), _border(truth)
    there = _distances(prediction_border, truth_border, scale)
    back = _distances(truth_border, prediction_border, scale)
    return replace(
        overlap,
        hd95=float(np.percentile(np.concatenate((there, back)), 95)),
        asd=float(there.mean()),
    )


def overlap_metrics(predicted: int, true: int, common: int) -> MaskMetrics:
    """As `mask_metrics` from the masks' voxels and those that they have in common alone; the distances are nan."""
    dice, jaccard = (
        (2.0 * common / (predicted + true), common / (predicted + true - common))
        if predicted and true
        else (0.0, 0.0)
    )
    if not predicted and not true:
        dice = jaccard = 1.0
    return MaskMetrics(
        dice, jaccard, np.nan, np.nan, empty_prediction=not predicted, empty_truth=not true
    )


def class_overlaps(prediction: Tensor, truth: Tensor, classes: int) -> Tensor:
    """Voxels predicted, true and both, of each foreground class of two label maps: (classes - 1, 3) int64 on the device they are on,
    which is not waited for."""
    found = [(prediction == number, truth == number) for number in range(1, classes)]
    return torch.stack(
        [torch.stack([mask.count_nonzero() for mask in (a, b, a & b)]) for a, b in found]
    )


def published_convention(metrics: MaskMetrics, worst: float) -> MaskMetrics:
    """The scores as the published code counts them: an empty prediction gets 0 for all four.

    0 is the best distance there is, so a model that finds nothing improves its mean distances, and a rightly empty
    prediction loses its dice. Where only the truth is empty the published code stops with an error inside medpy;
    here dice and jaccard are 0 and the distances `worst`.
    """
    if metrics.empty_prediction:
        return replace(metrics, dice=0.0, jaccard=0.0, hd95=0.0, asd=0.0)
    if metrics.empty_truth:
        return replace(metrics, hd95=worst, asd=worst)
    return metrics


def penalised_convention(metrics: MaskMetrics, worst: float) -> MaskMetrics:
    """The scores with a miss counted as one: where exactly one mask is empty, dice and jaccard are 0, the distances `worst`.

    Both empty is a perfect answer: dice and jaccard 1, distances 0. `worst` is in the distances' unit, see `image_diagonal`.
    """
    if metrics.empty_prediction and metrics.empty_truth:
        return replace(metrics, hd95=0.0, asd=0.0)
    if metrics.empty_prediction or metrics.empty_truth:
        return replace(metrics, hd95=worst, asd=worst)
    return metrics


def image_diagonal(shape: Sequence[int], spacing: Sequence[float] | None = None) -> float:
    """Length of the diagonal of an image of `shape` voxels, in the unit of `spacing` (voxels if None).

    No distance inside the image is longer. Raises ValueError for a spacing that does not fit.
    """
    return float(np.linalg.norm(np.asarray(shape) * _checked_spacing(spacing, len(shape))))


def _checked_spacing(spacing: Sequence[float] | None, axes: int) -> np.ndarray:
    scale = np.ones(axes) if spacing is None else np.asarray(spacing, dtype=np.float64)
    if scale.shape != (axes,) or not np.all(np.isfinite(scale) & (scale > 0)):
        raise ValueError(f"spacing must be {axes} positive numbers, one an axis, not {spacing}")
    return scale


def _joint_box(first: np.ndarray, second: np.ndarray) -> tuple[slice, ...]:
    union = first | second
    box = []
    for axis in range(union.ndim):
        filled = np.flatnonzero(
            union.any(axis=tuple(other for other in range(union.ndim) if other != axis))
        )
        box.append(slice(filled[0], filled[-1] + 1))
    return tuple(box)


def _border(mask: np.ndarray) -> np.ndarray:
    """Foreground with a face on the background or on the array's edge; slices are some 8 times as fast as scipy's erosion."""
    inside = mask.copy()
    for axis in range(mask.ndim):
        inner, outer = np.moveaxis(inside, axis, 0), np.moveaxis(mask, axis, 0)
        inner[0] = inner[-1] = False
        inner[1:] &= outer[:-1]
        inner[:-1] &= outer[1:]
    return mask ^ inside


def _distances(start: np.ndarray, target: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Distance from each voxel of the border `start` to the nearest of `target`, in no particular order."""
    distances = np.zeros(np.count_nonzero(start))
    apart = np.argwhere(start & ~target) * scale
    # Distances are wanted at a few border voxels only, where a tree beats a distance transform of the whole box. A tree
    # left unbalanced and with loose cells and large leaves answers as exactly and is the fastest on points of a surface.
    tree = KDTree(
        np.argwhere(target) * scale, leafsize=32, balanced_tree=False, compact_nodes=False
    )
    distances[: len(apart)] = tree.query(apart)[0]
    return distances
