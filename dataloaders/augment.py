"""Augmentation: a random draw, then a deterministic transform that can be replayed and tested.

Spatial transforms work on the trailing axes, so that an image (C, ...) and its label (...) go
through the same one. BCP uses only these. Intensity transforms change only the image.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from torch import Tensor

from dataloaders.transforms import (
    Array,
    HostTransform,
    Picks,
    Resize,
    SliceTransform,
    Transform,
    VolumeTransform,
)
from utils.errors import UserError

SpatialDraw = Callable[[np.random.Generator, Sequence[int]], Transform]
"""From a generator and the spatial shape of an image to a transform."""
IntensityDraw = Callable[[np.random.Generator], Transform]
INTENSITIES: dict[str, IntensityDraw] = {}
SPATIAL: dict[str, SpatialDraw] = {}


class HeldVoxel(NamedTuple):
    """A voxel that a patch must hold, and the generator that its place in the patch is drawn from.

    It is another generator than that of the augmentation, whose draws stay the same.
    """

    voxel: tuple[int, ...]
    rng: np.random.Generator


@dataclass(frozen=True)
class Augmentation:
    """Spatial transforms one after the other, then intensity transforms."""

    spatial: tuple[SpatialDraw, ...]
    intensity: tuple[IntensityDraw, ...] = ()

    def __call__(
        self,
        rng: np.random.Generator,
        image: Array,
        label: Array | None,
        held: HeldVoxel | None = None,
    ) -> dict[str, Array]:
        """Augment an image (C, ...) and its label (...), if it has one.

        `held`: a voxel of the image that the first patch must hold.

        Returns "image" and, where there is a label, "label"; with intensity transforms also
        "plain", the image before them. These may be views of the arguments. Raises UserError for a
        tensor and a transform that works only on arrays.
        """
        joined = Picks((), shape=tuple(image.shape[1:]))
        for draw in self.spatial:
            transform = draw(rng, joined.shape_after)
            if held is not None and isinstance(transform, VolumeTransform):
                transform = transform.holding(held.voxel, joined.shape_after, held.rng)
                held = None
            if isinstance(transform, (Resize, SliceTransform)):
                joined = replace(joined, transforms=(*joined.transforms, transform))
                continue
            image, label = _apply_to_both(joined, image, label=label)
            image, label = _apply_to_both(transform, image, label=label)
            joined = Picks((), shape=tuple(image.shape[1:]))
        image, label = _apply_to_both(joined, image, label=label)
        views: dict[str, Array] = {}
        if self.intensity:
            views["plain"] = image
        for draw in self.intensity:
            image = _apply(draw(rng), image)
        views["image"] = image
        if label is not None:
            views["label"] = label
        return views


def _apply_to_both(
    transform: Transform, image: Array, label: Array | None
) -> tuple[Array, Array | None]:
    changed_image = _apply(transform, image)
    if label is None:
        return changed_image, None
    return changed_image, _apply(transform, label)


def _apply(transform: Transform, array: Array) -> Array:
    if not isinstance(array, Tensor):
        return transform(array)
    if isinstance(transform, (Picks, VolumeTransform)):
        return transform(array)
    raise UserError(
        f"--cache device: the augmentation {transform} works only on arrays in the host's memory. "
        "Omit --cache device."
    )


def intensity(draw: IntensityDraw) -> IntensityDraw:
    """Register an intensity transform under its name for `--intensity`."""
    INTENSITIES[draw.__name__] = draw
    return draw


@intensity
def gamma(rng: np.random.Generator) -> HostTransform:
    """Raise the image, scaled to 0..1 between its minimum and maximum, to a power of 0.7 to 1.5."""
    exponent = np.exp(rng.uniform(np.log(0.7), np.log(1.5)))

    def transform(image: np.ndarray) -> np.ndarray:
        low = image.min()
        span = np.ptp(image) or 1
        unit = (image - low) / span
        changed = unit**exponent * span + low
        return changed.astype(image.dtype)

    return transform


@intensity
def brightness(rng: np.random.Generator) -> HostTransform:
    """Add one number everywhere, up to 0.3 standard deviations of the image in either direction."""
    shift = rng.uniform(-0.3, 0.3)

    def transform(image: np.ndarray) -> np.ndarray:
        changed = image + shift * image.std()
        return changed.astype(image.dtype)

    return transform


@intensity
def noise(rng: np.random.Generator) -> HostTransform:
    """Add normal noise of up to 0.1 of the image's standard deviation."""
    scale = rng.uniform(0, 0.1)
    seed = rng.integers(2**63)

    def transform(image: np.ndarray) -> np.ndarray:
        normal = np.random.default_rng(seed).normal(size=image.shape)
        changed = image + scale * image.std() * normal
        return changed.astype(image.dtype)

    return transform


def spatial(draw: SpatialDraw) -> SpatialDraw:
    """Register a spatial transform under its name for `--spatial`."""
    SPATIAL[draw.__name__] = draw
    return draw


@spatial
def scale(rng: np.random.Generator, shape: Sequence[int]) -> HostTransform:
    """Scale by 0.8 to 1.25 about the middle (nearest neighbour); zeros beyond the edge."""
    factor = np.exp(rng.uniform(np.log(0.8), np.log(1.25)))
    dims = len(shape)

    def transform(array: np.ndarray) -> np.ndarray:
        for axis, side in zip(range(-dims, 0), array.shape[-dims:], strict=True):
            middle = (side - 1) / 2
            source = np.rint((np.arange(side) - middle) / factor + middle).astype(int)
            array = np.take(array, source.clip(0, side - 1), axis)
            is_outside = (source < 0) | (source >= side)
            axes_behind = [1] * (-1 - axis)
            zero = array.dtype.type(0)
            array = np.where(is_outside.reshape(-1, *axes_behind), zero, array)
        return array

    return transform


def resize(size: tuple[int, int]) -> SpatialDraw:
    """Resize (..., H, W) to `size` by nearest neighbour; nothing is drawn."""
    return lambda rng, shape: Resize(size)


def turn_or_rotate(rng: np.random.Generator, shape: Sequence[int]) -> SliceTransform:
    """Draw a quarter turn and a flip (1/2), a rotation by a whole angle in [-20, 20) degrees (1/4)
    or no change (1/4).
    """
    if rng.random() > 0.5:
        return SliceTransform(quarter_turns=int(rng.integers(4)), flip_axis=int(rng.integers(2)))
    if rng.random() > 0.5:
        return SliceTransform(angle=int(rng.integers(-20, 20)))
    return SliceTransform()


@dataclass(frozen=True)
class VolumeAugmentation:
    """How patches are drawn.

    `spare`: voxels to add on each side in addition to what a scan lacks, where any side is not
    larger than the patch. `turn`: whether quarter turns and a flip are drawn; they come before the
    crop or, with `crop_first`, after it (CoGRNet). `centre`: take the middle of the scan instead of
    a random place.
    """

    patch_size: tuple[int, ...]
    spare: int
    turn: bool = True
    centre: bool = False
    crop_first: bool = False

    def draw(self, rng: np.random.Generator, shape: Sequence[int]) -> VolumeTransform:
        """Draw a transform for a scan of `shape`; its corner is uniform in [0, side - patch) of the
        padded scan.
        """
        turns = 0
        flip = None
        if self.turn:
            turns = int(rng.integers(4))
            flip = int(rng.integers(2))
        shape = tuple(shape)
        sides = self.patch_size
        if turns % 2 and self.crop_first:  # the patch is turned after the crop
            sides = (sides[1], sides[0], *sides[2:])
        elif turns % 2:  # the scan is turned before the crop
            shape = (shape[1], shape[0], *shape[2:])
        margin = self._margin(shape, sides)
        start: list[int] = []
        for side, more, patch in zip(shape, margin, sides, strict=True):
            room = side + 2 * more - patch
            if self.centre:
                start.append(round(room / 2))
            else:
                start.append(int(rng.integers(room)))
        return VolumeTransform(
            tuple(start),
            patch_size=sides,
            margin=margin,
            quarter_turns=turns,
            flip_axis=flip,
            crop_first=self.crop_first,
        )

    def _margin(self, shape: Sequence[int], sides: Sequence[int]) -> tuple[int, ...]:
        """Voxels to add on both sides of each axis: none where the scan is larger than the patch
        along every axis.
        """
        pairs = list(zip(shape, sides, strict=True))
        if all(side > patch for side, patch in pairs):
            return (0,) * len(pairs)
        return tuple(max((patch - side) // 2 + self.spare, 0) for side, patch in pairs)
