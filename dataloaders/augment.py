"""Augmentation: a random draw, then a deterministic transform that can be replayed and tested.

Spatial transforms work on the trailing axes, so that image (C, ...) and label (...) go through the same one; BCP has these alone.
Intensity transforms change the image only.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy import ndimage

from utils.zoom import zoom_nearest

Transform = Callable[[np.ndarray], np.ndarray]
SpatialDraw = Callable[[np.random.Generator, Sequence[int]], Transform]  # (rng, spatial shape) -> transform
IntensityDraw = Callable[[np.random.Generator], Transform]
INTENSITIES: dict[str, IntensityDraw] = {}
SPATIAL: dict[str, SpatialDraw] = {}


@dataclass(frozen=True)
class Augmentation:
    """Spatial transforms one after the other, then intensity transforms."""

    spatial: tuple[SpatialDraw, ...]
    intensity: tuple[IntensityDraw, ...] = ()

    def __call__(self, rng: np.random.Generator, image: np.ndarray, label: np.ndarray | None) -> dict[str, np.ndarray]:
        """Of an image (C, ...) and its label (...), contiguous: "image"; "label", if there is one; with intensity transforms "plain" too,
        the image without them."""
        for draw in self.spatial:
            transform = draw(rng, image.shape[1:])
            image, label = transform(image), None if label is None else transform(label)
        views = {"plain": image} if self.intensity else {}
        for draw in self.intensity:
            image = draw(rng)(image)
        views |= {"image": image} | ({} if label is None else {"label": label})
        return {name: np.ascontiguousarray(view) for name, view in views.items()}


def intensity(draw: IntensityDraw) -> IntensityDraw:
    """Makes an intensity transform known by its name to `--intensity`."""
    INTENSITIES[draw.__name__] = draw
    return draw


@intensity
def gamma(rng: np.random.Generator) -> Transform:
    """The image, taken as 0..1 between its ends, to a power of 0.7 to 1.5."""
    exponent = np.exp(rng.uniform(np.log(0.7), np.log(1.5)))

    def transform(image: np.ndarray) -> np.ndarray:
        low, span = image.min(), np.ptp(image) or 1
        return (((image - low) / span) ** exponent * span + low).astype(image.dtype)

    return transform


@intensity
def brightness(rng: np.random.Generator) -> Transform:
    """Up to 0.3 of the image's standard deviation more or less everywhere."""
    shift = rng.uniform(-0.3, 0.3)
    return lambda image: (image + shift * image.std()).astype(image.dtype)


@intensity
def noise(rng: np.random.Generator) -> Transform:
    """Normal noise of up to 0.1 of the image's standard deviation."""
    scale, seed = rng.uniform(0, 0.1), rng.integers(2**63)
    return lambda image: (image + scale * image.std() * np.random.default_rng(seed).normal(size=image.shape)).astype(image.dtype)


def spatial(draw: SpatialDraw) -> SpatialDraw:
    """Makes a spatial transform known by its name to `--spatial`."""
    SPATIAL[draw.__name__] = draw
    return draw


@spatial
def scale(rng: np.random.Generator, shape: Sequence[int]) -> Transform:
    """Everything 0.8 to 1.25 times as large about the middle, by nearest neighbour; zeros beyond the image's edge."""
    factor, dims = np.exp(rng.uniform(np.log(0.8), np.log(1.25))), len(shape)

    def transform(array: np.ndarray) -> np.ndarray:
        for axis, side in zip(range(-dims, 0), array.shape[-dims:], strict=True):
            middle = (side - 1) / 2
            source = np.rint((np.arange(side) - middle) / factor + middle).astype(int)
            array = np.take(array, source.clip(0, side - 1), axis)
            edge = ((source < 0) | (source >= side)).reshape(-1, *[1] * (-1 - axis))
            array = np.where(edge, array.dtype.type(0), array)
        return array

    return transform


def resize(size: tuple[int, int]) -> SpatialDraw:
    """No draw: (..., H, W) to `size` by nearest neighbour."""
    return lambda rng, shape: partial(zoom_nearest, size=size)


@dataclass(frozen=True)
class SliceTransform:
    """2-D: quarter turns (counter-clockwise), then a flip along an axis, then a rotation by `angle` degrees; None and 0 change nothing."""

    quarter_turns: int = 0
    flip_axis: int | None = None
    angle: int = 0

    def __call__(self, array: np.ndarray) -> np.ndarray:
        """Transform (..., H, W); order 0, the shape is kept but for odd quarter turns."""
        array = _turn_and_flip(array, 2, self.quarter_turns, self.flip_axis)
        return ndimage.rotate(array, self.angle, axes=(-1, -2), order=0, reshape=False) if self.angle else array


def _turn_and_flip(array: np.ndarray, dims: int, quarter_turns: int, flip_axis: int | None) -> np.ndarray:
    """A view of `array`, turned in the first two of its `dims` trailing axes, then flipped along one of them."""
    array = np.rot90(array, quarter_turns, axes=(-dims, 1 - dims))
    return array if flip_axis is None else np.flip(array, flip_axis - dims)


def turn_or_rotate(rng: np.random.Generator, shape: Sequence[int]) -> SliceTransform:
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
        """The patch of (..., X, Y, Z)."""
        if not self.crop_first:
            array = _turn_and_flip(array, 3, self.quarter_turns, self.flip_axis)
        if any(self.margin):
            array = np.pad(array, [(0, 0)] * (array.ndim - 3) + [(side, side) for side in self.margin])
        patch = array[(..., *(slice(first, first + side) for first, side in zip(self.start, self.patch_size, strict=True)))]
        return _turn_and_flip(patch, 3, self.quarter_turns, self.flip_axis) if self.crop_first else patch


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
