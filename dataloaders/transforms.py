"""Spatial transforms that only pick voxels: of arrays on the host, or of tensors wherever they are,
with the same result.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor


@lru_cache(maxsize=4096)
def _nearest_indices(size: int, new_size: int) -> np.ndarray:
    """Return for each of `new_size` pixels its source pixel of `size`; -1 for none.

    The source is the one that scipy.ndimage.zoom(order=0) takes.

    For some sizes (216 to 256, which occurs in ACDC) scipy's rounding puts the last coordinate
    outside the image and fills in 0. Published networks were trained and tested with that.
    """
    return ndimage.zoom(np.arange(1, size + 1), new_size / size, order=0) - 1


def zoom_nearest(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize the last two axes (..., H, W) to `size` by picking rows and columns.

    The result equals scipy.ndimage.zoom(order=0).
    """
    height, width = size
    rows = _nearest_indices(array.shape[-2], height)
    columns = _nearest_indices(array.shape[-1], width)
    zoomed = array[..., rows[:, None], columns]
    zoomed[..., rows < 0, :] = 0
    zoomed[..., columns < 0] = 0
    return zoomed


def zoom_nearest_on_device(tensor: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a tensor (..., H, W) as `zoom_nearest` does, on its device."""
    for axis, new in zip((-2, -1), size, strict=True):
        picks, filled = _picks_on_device(tensor.shape[axis], new, tensor.device)
        tensor = tensor.index_select(axis, picks)
        if filled is not None:
            shape = (-1, *[1] * (-1 - axis))
            tensor = tensor * filled.to(tensor.dtype).unflatten(0, shape)
    return tensor


@lru_cache(maxsize=4096)
def _picks_on_device(
    size: int, new_size: int, device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """Return `_nearest_indices` as a tensor, and a mask of the pixels that have a source.

    The mask is None if all have one.
    """
    indices = _nearest_indices(size, new_size)
    picks = torch.from_numpy(indices.clip(0)).to(device)
    if indices.min() >= 0:
        return picks, None
    return picks, torch.from_numpy(indices >= 0).to(device)


Array = np.ndarray | Tensor
HostTransform = Callable[[np.ndarray], np.ndarray]
"""A transform of arrays on the host only."""
Transform = Callable[[Array], Array] | HostTransform


@dataclass(frozen=True)
class Resize:
    """Resizes (..., H, W) to `size` by nearest neighbour, as scipy.ndimage.zoom does."""

    size: tuple[int, int]

    def __call__(self, array: np.ndarray) -> np.ndarray:
        """Resize an array (..., H, W)."""
        return zoom_nearest(array, self.size)

    def shape_after(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape (H, W) of the result."""
        return self.size


@dataclass(frozen=True)
class SliceTransform:
    """2-D: quarter turns (counter-clockwise), then a flip along an axis, then a rotation by `angle`
    degrees; None and 0 change nothing.
    """

    quarter_turns: int = 0
    flip_axis: int | None = None
    angle: int = 0

    def __call__(self, array: np.ndarray) -> np.ndarray:
        """Transform (..., H, W) by nearest neighbour; an odd number of quarter turns exchanges H
        and W.
        """
        array = _turn_and_flip_array(
            array, 2, quarter_turns=self.quarter_turns, flip_axis=self.flip_axis
        )
        if not self.angle:
            return array
        return ndimage.rotate(array, self.angle, axes=(-1, -2), order=0, reshape=False)

    def shape_after(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape (H, W) of the result for an array of `shape`."""
        if self.quarter_turns % 2:
            return tuple(reversed(shape))
        return tuple(shape)


@dataclass(frozen=True)
class Picks:
    """`Resize` and `SliceTransform`s one after the other, on slices of `shape`.

    Which pixel of a slice each pixel of the result is, is computed once and kept.
    """

    transforms: tuple[Resize | SliceTransform, ...]
    shape: tuple[int, ...]

    @property
    def shape_after(self) -> tuple[int, ...]:
        """The shape (H, W) of the result."""
        shape = self.shape
        for transform in self.transforms:
            shape = transform.shape_after(shape)
        return shape

    def __call__(self, array: Array) -> Array:
        """Apply the transforms to slices (..., H, W) of the shape that was given."""
        if not self.transforms:
            return array
        if isinstance(array, Tensor):
            indices, empty = _picks_on(self.transforms, self.shape, array.device)
            flat = array.flatten(-2).index_select(-1, indices.flatten())
            picked = flat.unflatten(-1, indices.shape)
            if empty is None:
                return picked
            return picked.masked_fill(empty, 0)
        indices, empty = _picks(self.transforms, self.shape)
        flat = array.reshape(*array.shape[:-2], -1)
        picked = flat.take(indices, axis=-1, mode="clip")  # twice as fast as with a check
        if empty.size:
            picked.reshape(*array.shape[:-2], -1)[..., empty] = 0
        return picked


# 23 shapes of slices and 47 draws, as ACDC has them, are 270 MB at 256x256
@lru_cache(maxsize=1100)
def _picks(
    transforms: tuple[Resize | SliceTransform, ...], shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Index in a flat slice of `shape` of each pixel of the result (h, w), and which pixels of the
    flat result come from nowhere.
    """
    numbers = np.arange(1, prod(shape) + 1, dtype=np.int32).reshape(shape)
    for transform in transforms:
        numbers = transform(numbers)
    return np.maximum(numbers - 1, 0), np.flatnonzero(numbers == 0)


@lru_cache(maxsize=1100)
def _picks_on(
    transforms: tuple[Resize | SliceTransform, ...], shape: tuple[int, ...], device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """`_picks` on the device; pixels without a source as a mask (h, w), None if there are none."""
    indices, empty = _picks(transforms, shape)
    indices_there = torch.from_numpy(indices).to(device)
    if not empty.size:
        return indices_there, None
    mask = np.zeros(indices.shape, bool)
    mask.reshape(-1)[empty] = True
    return indices_there, torch.from_numpy(mask).to(device)


@dataclass(frozen=True)
class VolumeTransform:
    """3-D: quarter turns in the first two axes, a flip along one of them, zeros on both sides of
    each axis, then a patch from `start`.

    With `crop_first` the patch comes before the turns and the flip.
    """

    start: tuple[int, ...]
    patch_size: tuple[int, ...]
    margin: tuple[int, ...] = (0, 0, 0)
    quarter_turns: int = 0
    flip_axis: int | None = None
    crop_first: bool = False

    def __call__(self, array: Array) -> Array:
        """Cut the patch from (..., X, Y, Z)."""
        if not self.crop_first:
            array = self._turn_and_flip(array)
        if any(self.margin):
            array = _padded(array, self.margin)
        window = [
            slice(first, first + side)
            for first, side in zip(self.start, self.patch_size, strict=True)
        ]
        patch = array[(..., *window)]
        if self.crop_first:
            patch = self._turn_and_flip(patch)
        return patch

    def holding(
        self, voxel: Sequence[int], shape: Sequence[int], rng: np.random.Generator
    ) -> "VolumeTransform":
        """Return this transform with another corner: its patch holds a voxel of a scan of `shape`.

        The corner is drawn uniformly among all corners in the padded scan whose patch holds the
        voxel.
        """
        sides = tuple(shape)
        position = tuple(voxel)
        if not self.crop_first:  # the scan is turned before the crop
            position, sides = self._turned_and_flipped(position, sides)
        start: list[int] = []
        for place, side, more, patch in zip(
            position, sides, self.margin, self.patch_size, strict=True
        ):
            padded_place = place + more
            first = max(padded_place - patch + 1, 0)
            last = min(padded_place, side + 2 * more - patch)
            start.append(int(rng.integers(first, last + 1)))
        return replace(self, start=tuple(start))

    def _turned_and_flipped(
        self, position: tuple[int, ...], sides: tuple[int, ...]
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return where a voxel of a scan with these sides is after the turns and the flip, and the
        sides then.
        """
        for _ in range(self.quarter_turns):
            position = (sides[1] - 1 - position[1], position[0], *position[2:])
            sides = (sides[1], sides[0], *sides[2:])
        if self.flip_axis is not None:
            flipped = list(position)
            flipped[self.flip_axis] = sides[self.flip_axis] - 1 - position[self.flip_axis]
            position = tuple(flipped)
        return position, sides

    def _turn_and_flip(self, array: Array) -> Array:
        if isinstance(array, Tensor):
            return _turn_and_flip_tensor(
                array, 3, quarter_turns=self.quarter_turns, flip_axis=self.flip_axis
            )
        return _turn_and_flip_array(
            array, 3, quarter_turns=self.quarter_turns, flip_axis=self.flip_axis
        )


def _turn_and_flip_array(
    array: np.ndarray, dims: int, quarter_turns: int, flip_axis: int | None
) -> np.ndarray:
    """A view of `array`, turned in the first two of its `dims` trailing axes, then flipped along
    one of them.
    """
    turned = np.rot90(array, quarter_turns, axes=(-dims, 1 - dims))
    if flip_axis is None:
        return turned
    return np.flip(turned, flip_axis - dims)


def _turn_and_flip_tensor(
    tensor: Tensor, dims: int, quarter_turns: int, flip_axis: int | None
) -> Tensor:
    """`_turn_and_flip_array` of a tensor."""
    if quarter_turns:
        tensor = torch.rot90(tensor, quarter_turns, (-dims, 1 - dims))
    if flip_axis is None:
        return tensor
    return tensor.flip(flip_axis - dims)


def _padded(array: Array, margin: Sequence[int]) -> Array:
    """`array` with `margin` zeros on both sides of each of its trailing axes."""
    if isinstance(array, Tensor):
        sides = np.repeat(margin[::-1], 2).tolist()  # torch counts from the last axis
        return F.pad(array, sides)
    others = [(0, 0)] * (array.ndim - len(margin))
    return np.pad(array, others + [(side, side) for side in margin])
