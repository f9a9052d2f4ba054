"""Augmentation as BCP has it: a random draw, then a deterministic transform that can be replayed and tested."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage


@dataclass(frozen=True)
class SliceTransform:
    """2-D: quarter turns (counter-clockwise), then a flip along an axis, then a rotation by `angle` degrees; None and 0 change nothing."""

    quarter_turns: int = 0
    flip_axis: int | None = None
    angle: int = 0

    def __call__(self, array: np.ndarray) -> np.ndarray:
        """Transform one (H, W) array; order 0, the shape is kept but for odd quarter turns."""
        array = _turn_and_flip(array, self.quarter_turns, self.flip_axis)
        return ndimage.rotate(array, self.angle, order=0, reshape=False) if self.angle else array


def _turn_and_flip(array: np.ndarray, quarter_turns: int, flip_axis: int | None) -> np.ndarray:
    """A view of `array`, turned in its first two axes, then flipped."""
    array = np.rot90(array, quarter_turns)
    return array if flip_axis is None else np.flip(array, flip_axis)


def draw_slice_transform(rng: np.random.Generator) -> SliceTransform:
    """Half of the draws: a quarter turn and a flip. Of the other half, half: a rotation by a whole angle in [-20, 20)."""
    if rng.random() > 0.5:
        return SliceTransform(quarter_turns=int(rng.integers(4)), flip_axis=int(rng.integers(2)))
    if rng.random() > 0.5:
        return SliceTransform(angle=int(rng.integers(-20, 20)))
    return SliceTransform()


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

    def __call__(self, array: np.ndarray) -> np.ndarray:
        """The patch of one (X, Y, Z) array, contiguous."""
        if not self.crop_first:
            array = _turn_and_flip(array, self.quarter_turns, self.flip_axis)
        if any(self.margin):
            array = np.pad(array, [(side, side) for side in self.margin])
        patch = array[tuple(slice(first, first + side) for first, side in zip(self.start, self.patch_size, strict=True))]
        return np.ascontiguousarray(_turn_and_flip(patch, self.quarter_turns, self.flip_axis) if self.crop_first else patch)


@dataclass(frozen=True)
class VolumeAugmentation:
    """How patches are drawn. `spare`: voxels to add on each side beyond what a scan lacks, where any side is not larger than the
    patch; `turn`: quarter turns and a flip, before the crop or, with `crop_first`, after it (CoGRNet); `centre`: the middle of the scan
    instead of a random place."""

    patch_size: tuple[int, ...]
    spare: int
    turn: bool = True
    centre: bool = False
    crop_first: bool = False

    def draw(self, rng: np.random.Generator, shape: Sequence[int]) -> VolumeTransform:
        """A transform for a scan of `shape`; its corner is uniform in [0, side - patch) of the padded scan."""
        turns, flip = (int(rng.integers(4)), int(rng.integers(2))) if self.turn else (0, None)
        shape, sides = tuple(shape), self.patch_size
        if turns % 2:  # the scan is turned before the crop, or the patch after it
            if self.crop_first:
                sides = (sides[1], sides[0], *sides[2:])
            else:
                shape = (shape[1], shape[0], *shape[2:])
        margin = (0,) * len(shape)
        if any(side <= patch for side, patch in zip(shape, sides, strict=True)):
            margin = tuple(max((patch - side) // 2 + self.spare, 0) for side, patch in zip(shape, sides, strict=True))
        room = [side + 2 * more - patch for side, more, patch in zip(shape, margin, sides, strict=True)]
        start = tuple(round(r / 2) for r in room) if self.centre else tuple(int(rng.integers(r)) for r in room)
        return VolumeTransform(start, sides, margin, turns, flip, self.crop_first)
