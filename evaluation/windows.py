"""Where the windows of a sliding window lie, and how much each of them counts in a voxel."""

from collections.abc import Sequence
from itertools import product
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Corner = tuple[int, ...]
Blend = Literal["uniform", "gaussian"]
"""Weights of a window's voxels. uniform: all are equal. gaussian: they fall towards its border."""

SIGMA = 1 / 8
"""Standard deviation of the Gaussian weights, as a share of the window's side (nnU-Net's value)."""


class Windows:
    """The windows over a volume of `shape`, and the sum of their weights in each voxel.

    The weight of a voxel in a window is the product of one weight per axis. The windows are all
    combinations of one start per axis, so the sum of weights in a voxel is such a product too.
    `x_sums`: the factor of each plane. `plane_sums`: that of each voxel of a plane.
    """

    def __init__(
        self,
        shape: Sequence[int],
        patch_size: Sequence[int],
        stride: Sequence[int],
        blend: Blend = "uniform",
    ) -> None:
        """Place windows of `patch_size` each `stride` voxels, the last flush with the border."""
        self.patch_size = tuple(patch_size)
        self._starts: list[list[int]] = []
        weights: list[Tensor] = []
        sums: list[Tensor] = []
        for side, patch, step in zip(shape, patch_size, stride, strict=True):
            starts = window_starts(side, patch, step)
            axis = axis_weights(patch, blend)
            self._starts.append(starts)
            weights.append(axis)
            sums.append(sums_of_weights(starts, axis, side))
        self.x_sums = sums[0]
        self.plane_sums = sums[1][:, None] * sums[2]
        self.plane_shape = tuple(shape[1:])
        self.weights: Tensor | None = None  # (x, y, z) of a window; None if all are 1
        if blend == "gaussian":
            self.weights = weights[0][:, None, None] * weights[1][:, None] * weights[2]

    def corners(self) -> list[Corner]:
        """The first voxel of each window, in the order of x."""
        return list(product(*self._starts))

    def at(self, corner: Corner) -> tuple[slice, ...]:
        """The index of a window in an array whose first axis is that of channels or classes."""
        sides = zip(corner, self.patch_size, strict=True)
        return slice(None), *(slice(start, start + side) for start, side in sides)

    def background(self, image: NDArray[np.float32]) -> set[Corner]:
        """The windows that hold only background in an image (C, X, Y, Z).

        That is one value per channel, the same in all of these windows. Their contents are equal,
        so a network in eval mode gives the same output for all of them.
        """
        background: set[Corner] = set()
        value: NDArray[np.float32] | None = None
        for corner in self.corners():
            window = image[self.at(corner)]
            expected = value
            if expected is None:
                expected = window[:, :1, :1, :1]
            if _is_everywhere(window, expected):
                value = expected
                background.add(corner)
        return background


def _is_everywhere(window: NDArray[np.float32], value: NDArray[np.float32]) -> bool:
    """Whether a window (C, X, Y, Z) holds `value` (C, 1, 1, 1) in all voxels."""
    few = window[:, ::8, ::8, ::8]  # one voxel of 512 shows that most windows hold something
    return bool((few == value).all() and (window == value).all())


def window_starts(side: int, patch: int, step: int) -> list[int]:
    """Where windows begin along an axis: each `step` voxels (at most a window's side), the last
    flush with the border."""
    step = min(step, patch)
    last = max(side - patch, 0)
    return [min(start, last) for start in range(0, last + step, step)]


def axis_weights(patch: int, blend: Blend) -> Tensor:
    """Weights of a window's voxels along an axis of `patch` voxels.

    gaussian: exp(-d^2 / (2 sigma^2)) at distance d from the window's centre, with a sigma of an
    eighth of the side.
    """
    if blend == "uniform":
        return torch.ones(patch)
    distance = torch.arange(patch) - (patch - 1) / 2
    return torch.exp(-0.5 * (distance / (SIGMA * patch)) ** 2)


def sums_of_weights(starts: Sequence[int], weights: Tensor, side: int) -> Tensor:
    """The sum of the weights of all windows in each voxel of an axis."""
    sums = torch.zeros(side)
    for start in starts:
        sums[start : start + len(weights)] += weights
    return sums
