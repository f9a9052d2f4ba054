"""Two binary masks of one class: voxel counts, and distances between their borders."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import KDTree  # pyright: ignore[reportMissingTypeStubs]

from utils.axes import other_axes

TOLERANCE = 2.0  # of NSD by default, in mm, or in voxels where distances are in voxels
Mask: TypeAlias = NDArray[np.bool_]
Distances: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Counts:
    """Numbers of voxels: of the prediction, of the truth, and of both (`common`)."""

    predicted: int
    true: int
    common: int


@dataclass(frozen=True, eq=False)
class MaskPair:
    """A predicted and a true mask (H, W) or (D, H, W) with the size of a voxel along each axis; see
    `mask_pair`.

    `tolerance`: the distance up to which borders count as equal, in the unit of the size.
    `to_truth` and `to_prediction` are distances between borders, as medpy defines these: neighbours
    share a face, and a foreground voxel at the edge of the image is border. No mask may be empty.
    """

    prediction: Mask
    truth: Mask
    voxel_size: Distances
    tolerance: float = TOLERANCE

    @property
    def counts(self) -> Counts:
        """Numbers of voxels of the masks and of their intersection."""
        return Counts(
            predicted=int(np.count_nonzero(self.prediction)),
            true=int(np.count_nonzero(self.truth)),
            common=int(np.count_nonzero(self.prediction & self.truth)),
        )

    @property
    def to_truth(self) -> Distances:
        """Distance from each border voxel of the prediction to the truth's border, in no order."""
        return self._distances[0]

    @property
    def to_prediction(self) -> Distances:
        """Distance from each border voxel of the truth to the prediction's border, in no order."""
        return self._distances[1]

    @cached_property
    def both_directions(self) -> Distances:
        """The distances of all border voxels: `to_truth`, then `to_prediction`."""
        return np.concatenate(self._distances)

    @cached_property
    def _distances(self) -> tuple[Distances, Distances]:
        # The box needs no margin: all voxels outside it are background in both masks, as is
        # everything outside the image.
        box = _joint_box(self.prediction, self.truth)
        predicted = _border(self.prediction[box])
        true = _border(self.truth[box])
        to_truth = _border_distances(predicted, true, voxel_size=self.voxel_size)
        to_prediction = _border_distances(true, predicted, voxel_size=self.voxel_size)
        return to_truth, to_prediction


def mask_pair(
    prediction: ArrayLike,
    truth: ArrayLike,
    spacing: Sequence[float] | None = None,
    *,
    tolerance: float = TOLERANCE,
) -> MaskPair:
    """Check two masks of equal shape; every non-zero element counts as foreground.

    `spacing` is the voxel's size along each axis, in the arrays' own axis order; without it,
    distances are in voxels. `tolerance`: see `MaskPair`. Raises ValueError for shapes that differ
    or are not 2-D or 3-D, and for a spacing that does not fit.
    """
    predicted = np.asarray(prediction, dtype=np.bool_)
    true = np.asarray(truth, dtype=np.bool_)
    if predicted.shape != true.shape or predicted.ndim not in (2, 3):
        raise ValueError(
            f"masks must be 2-D or 3-D and of one shape, not {predicted.shape} and {true.shape}"
        )
    voxel_size = _voxel_size(spacing, predicted.ndim)
    return MaskPair(predicted, true, voxel_size=voxel_size, tolerance=tolerance)


def image_diagonal(shape: Sequence[int], spacing: Sequence[float] | None = None) -> float:
    """Return the length of the diagonal of an image of `shape` voxels, in the unit of `spacing`
    (voxels if None).

    No distance inside the image is longer. Raises ValueError for a spacing that does not fit.
    """
    return float(np.linalg.norm(np.asarray(shape) * _voxel_size(spacing, len(shape))))


def _voxel_size(spacing: Sequence[float] | None, axes: int) -> Distances:
    if spacing is None:
        return np.ones(axes)
    size = np.asarray(spacing, dtype=np.float64)
    if size.shape != (axes,) or not np.all(np.isfinite(size) & (size > 0)):
        raise ValueError(
            f"spacing must be {axes} positive numbers, one for each axis, not {spacing}"
        )
    return size


def _joint_box(first: Mask, second: Mask) -> tuple[slice, ...]:
    union = first | second
    box: list[slice] = []
    for axis in range(union.ndim):
        filled = np.flatnonzero(union.any(axis=other_axes(union.ndim, axis)))
        box.append(slice(int(filled[0]), int(filled[-1]) + 1))
    return tuple(box)


def _border(mask: Mask) -> Mask:
    """Return the foreground voxels with a face on background or on the array's edge.

    Slicing is about 8 times as fast as scipy's erosion.
    """
    inside: Mask = np.array(mask)
    for axis in range(mask.ndim):
        inner = np.moveaxis(inside, axis, 0)
        outer = np.moveaxis(mask, axis, 0)
        inner[0] = False
        inner[-1] = False
        inner[1:] &= outer[:-1]
        inner[:-1] &= outer[1:]
    return mask ^ inside


def _border_distances(start: Mask, target: Mask, voxel_size: Distances) -> Distances:
    """Return the distance from each voxel of the border `start` to the nearest of `target`, in no
    particular order."""
    distances = np.zeros(np.count_nonzero(start))
    apart = np.argwhere(start & ~target) * voxel_size
    # Distances are only needed at border voxels, where a tree is faster than a distance transform
    # of the whole box. A tree that is neither balanced nor compact and has large leaves is equally
    # exact, and the fastest for points on a surface.
    tree = KDTree(
        np.argwhere(target) * voxel_size, leafsize=32, balanced_tree=False, compact_nodes=False
    )
    nearest: tuple[Any, ...] = tree.query(apart)  # pyright: ignore
    distances[: len(apart)] = nearest[0]
    return distances
