"""Augmentation: a random draw, then a deterministic transform that can be replayed and tested.

Spatial transforms work on the trailing axes, so that image (C, ...) and label (...) go through the same one; BCP has these alone.
Intensity transforms change the image only.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from dataloaders.transforms import Array, Picks, Resize, SliceTransform, Transform, VolumeTransform
from utils.errors import UserError

SpatialDraw = Callable[
    [np.random.Generator, Sequence[int]], Transform
]  # (rng, spatial shape) -> transform
IntensityDraw = Callable[[np.random.Generator], Transform]
INTENSITIES: dict[str, IntensityDraw] = {}
SPATIAL: dict[str, SpatialDraw] = {}


@dataclass(frozen=True)
class Augmentation:
    """Spatial transforms one after the other, then intensity transforms."""

    spatial: tuple[SpatialDraw, ...]
    intensity: tuple[IntensityDraw, ...] = ()

    def __call__(
        self, rng: np.random.Generator, image: Array, label: Array | None
    ) -> dict[str, Array]:
        """Of an image (C, ...) and its label (...), or views of them: "image"; "label", if there is one; with intensity transforms "plain"
        too, the image without them. Raises UserError for tensors and a transform that takes arrays alone."""
        joined = Picks((), tuple(image.shape[1:]))
        for draw in self.spatial:
            transform = draw(rng, joined.shape_after)
            if isinstance(transform, (Resize, SliceTransform)):
                joined = replace(joined, transforms=(*joined.transforms, transform))
                continue
            image, label = _both(transform, *_both(joined, image, label))
            joined = Picks((), tuple(image.shape[1:]))
        image, label = _both(joined, image, label)
        views = {"plain": image} if self.intensity else {}
        for draw in self.intensity:
            image, _ = _both(draw(rng), image, None)
        return views | {"image": image} | ({} if label is None else {"label": label})


def _both(transform: Transform, image: Array, label: Array | None) -> tuple[Array, Array | None]:
    if isinstance(image, Tensor) and not isinstance(transform, (Picks, VolumeTransform)):
        raise UserError(
            f"--cache device: the augmentation {transform} takes arrays on the host alone; leave --cache device out"
        )
    return transform(image), None if label is None else transform(label)


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
    return lambda image: (
        image + scale * image.std() * np.random.default_rng(seed).normal(size=image.shape)
    ).astype(image.dtype)


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
    return lambda rng, shape: Resize(size)


def turn_or_rotate(rng: np.random.Generator, shape: Sequence[int]) -> SliceTransform:
    """Half of the draws: a quarter turn and a flip. Of the other half, half: a rotation by a whole angle in [-20, 20)."""
    if rng.random() > 0.5:
        return SliceTransform(quarter_turns=int(rng.integers(4)), flip_axis=int(rng.integers(2)))
    if rng.random() > 0.5:
        return SliceTransform(angle=int(rng.integers(-20, 20)))
    return SliceTransform()


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
            margin = tuple(
                max((patch - side) // 2 + self.spare, 0)
                for side, patch in zip(shape, sides, strict=True)
            )
        room = [
            side + 2 * more - patch for side, more, patch in zip(shape, margin, sides, strict=True)
        ]
        start = (
            tuple(round(r / 2) for r in room)
            if self.centre
            else tuple(int(rng.integers(r)) for r in room)
        )
        return VolumeTransform(start, sides, margin, turns, flip, self.crop_first)
