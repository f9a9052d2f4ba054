"""Spatial transforms that only pick voxels: of arrays on the host, or of tensors wherever they are, with the same result."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from utils.zoom import zoom_nearest

Array = np.ndarray | Tensor
Transform = Callable[[Array], Array]


@dataclass(frozen=True)
class Resize:
    """2-D: (..., H, W) to `size` by nearest neighbour, as scipy.ndimage.zoom."""

    size: tuple[int, int]

    def __call__(self, array: np.ndarray) -> np.ndarray:
        return zoom_nearest(array, self.size)

    def shape_after(self, shape: Sequence[int]) -> tuple[int, ...]:
        return self.size


@dataclass(frozen=True)
class SliceTransform:
    """2-D: quarter turns (counter-clockwise), then a flip along an axis, then a rotation by `angle` degrees; None and 0 change nothing."""

    quarter_turns: int = 0
    flip_axis: int | None = None
    angle: int = 0

    def __call__(self, array: np.ndarray) -> np.ndarray:
        """Transform (..., H, W); order 0, the shape is kept but for odd quarter turns."""
        array = _turn_and_flip(array, 2, self.quarter_turns, self.flip_axis)
        return (
            ndimage.rotate(array, self.angle, axes=(-1, -2), order=0, reshape=False)
            if self.angle
            else array
        )

    def shape_after(self, shape: Sequence[int]) -> tuple[int, ...]:
        return tuple(shape[::-1] if self.quarter_turns % 2 else shape)


@dataclass(frozen=True)
class Picks:
    """Some of the two above, one after the other, on slices of `shape`: which pixel each of the result is, found once and kept."""

    transforms: tuple[Resize | SliceTransform, ...]
    shape: tuple[int, ...]

    @property
    def shape_after(self) -> tuple[int, ...]:
        shape = self.shape
        for transform in self.transforms:
            shape = transform.shape_after(shape)
        return shape

    def __call__(self, array: Array) -> Array:
        if not self.transforms:
            return array
        if isinstance(array, Tensor):
            places, empty = _picks_on(self.transforms, self.shape, array.device)
            picked = (
                array.flatten(-2).index_select(-1, places.flatten()).unflatten(-1, places.shape)
            )
            return picked if empty is None else picked.masked_fill(empty, 0)
        places, empty = _picks(self.transforms, self.shape)
        picked = array.reshape(*array.shape[:-2], -1).take(
            places, axis=-1, mode="clip"
        )  # twice as fast as with a check
        if empty.size:
            picked.reshape(*array.shape[:-2], -1)[..., empty] = 0
        return picked


# 23 shapes of slices and 47 draws, as ACDC has them, are 270 MB at 256x256
@lru_cache(maxsize=1100)
def _picks(transforms: tuple, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Where in a flat slice of `shape` each pixel of the result (h, w) comes from, and which, in the flat result, come from nowhere."""
    numbers = np.arange(1, prod(shape) + 1, dtype=np.int32).reshape(shape)
    for transform in transforms:
        numbers = transform(numbers)
    return np.maximum(numbers - 1, 0), np.flatnonzero(numbers == 0)


@lru_cache(maxsize=1100)
def _picks_on(
    transforms: tuple, shape: tuple[int, ...], device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """`_picks` on the device, the pixels from nowhere as a mask (h, w)."""
    places, empty = _picks(transforms, shape)
    mask = np.zeros(places.shape, bool)
    mask.reshape(-1)[empty] = True
    return torch.from_numpy(places).to(device), torch.from_numpy(mask).to(
        device
    ) if empty.size else None


@dataclass(frozen=True)
class VolumeTransform:
    """3-D: quarter turns in the first two axes, a flip along one of them, zeros on both sides of each axis, then a patch from `start`;
    with `crop_first` the patch comes before turns and flip."""

    start: tuple[int, ...]
    patch_size: tuple[int, ...]
    margin: tuple[int, ...] = (0, 0, 0)
    quarter_turns: int = 0
    flip_axis: int | None = None
    crop_first: bool = False

    def __call__(self, array: Array) -> Array:
        """The patch of (..., X, Y, Z)."""
        if not self.crop_first:
            array = _turn_and_flip(array, 3, self.quarter_turns, self.flip_axis)
        if any(self.margin):
            array = _padded(array, self.margin)
        patch = array[
            (
                ...,
                *(
                    slice(first, first + side)
                    for first, side in zip(self.start, self.patch_size, strict=True)
                ),
            )
        ]
        return (
            _turn_and_flip(patch, 3, self.quarter_turns, self.flip_axis)
            if self.crop_first
            else patch
        )


def _turn_and_flip(array: Array, dims: int, quarter_turns: int, flip_axis: int | None) -> Array:
    """`array` (an array: a view of it), turned in the first two of its `dims` trailing axes, then flipped along one of them."""
    if isinstance(array, Tensor):
        array = torch.rot90(array, quarter_turns, (-dims, 1 - dims)) if quarter_turns else array
        return array if flip_axis is None else array.flip(flip_axis - dims)
    array = np.rot90(array, quarter_turns, axes=(-dims, 1 - dims))
    return array if flip_axis is None else np.flip(array, flip_axis - dims)


def _padded(array: Array, margin: Sequence[int]) -> Array:
    if isinstance(array, Tensor):
        return F.pad(array, [side for axis in reversed(margin) for side in (axis, axis)])
    return np.pad(array, [(0, 0)] * (array.ndim - len(margin)) + [(side, side) for side in margin])
