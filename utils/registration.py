"""Carrying a label from one annotated slice through a volume, slice by slice, by 2-D registration (coarse labels of CoGRNet).

Everything works in voxels. antspyx is imported where a registration runs, because the import alone takes seconds.
"""

import os
import tempfile
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import (
    binary_dilation,
    binary_erosion,
    distance_transform_edt,
    gaussian_filter,
    gaussian_filter1d,
    map_coordinates,
)

TRANSFORMS = ("SyN", "SyNRA")
RECTANGLE = np.ones((5, 5), bool)
# In voxels: how far a known line corrects its slice, how much the correction is smoothed along the line, how much fused distances
# are; distances beyond FAR count as FAR. Dice on LA is flat about these values (docs/results/cogrnet.md).
REACH, SOFTEN, SMOOTH, FAR = 4.0, 2.0, 1.5, 20.0


@dataclass(frozen=True)
class Guide:
    """What the other plane's annotated slice tells about each slice of this plane: one line of it.

    `distance` (n, L) float32: signed distance to the outline in the other slice, positive inside; the line lies at `position`
    of the slice's `axis` (0 or 1).
    """

    distance: np.ndarray
    axis: int
    position: int


@dataclass(frozen=True)
class Carried:
    """What one direction gave: `label` (n, H, W) uint8, the annotated slice first; `failed` registrations found nothing (a slice
    of one value, say), there the label was taken over as it was."""

    label: np.ndarray
    failed: int


def scale_255(volume: np.ndarray, whole: bool = False) -> np.ndarray:
    """(...) of any range to float32 0..255, from its minimum to its maximum; all 0 where there is one value.

    `whole`: rounded to whole numbers, as in the 8-bit pictures through which the published slices go.
    """
    volume = volume.astype(np.float32)
    low, high = volume.min(), volume.max()
    scaled = (volume - low) / (high - low) * 255 if high > low else np.zeros_like(volume)
    return np.rint(scaled) if whole else scaled


def slice_map(
    fixed: np.ndarray, moving: np.ndarray, transform: str = "SyN", seed: int = 1337
) -> np.ndarray:
    """Register the slice `moving` to `fixed` (both (H, W) float32, 0..255): where each pixel of `fixed` comes from.

    Returns (2, H, W) float32, row and column in `moving`; -1 where that lies outside. Raises RuntimeError where ANTs fails.
    The result depends on the arguments alone: ANTs takes its sampling seed from the environment (antspyx 0.6 ignores a
    `random_seed` argument), and sums in one order as long as it has one thread.
    """
    if np.ptp(fixed) == 0 or np.ptp(moving) == 0:
        raise RuntimeError("a slice of one value has nothing to register")
    os.environ["ANTS_RANDOM_SEED"] = str(seed)
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = "1"
    import ants

    target, source = (
        ants.from_numpy(fixed.astype(np.float32)),
        ants.from_numpy(moving.astype(np.float32)),
    )
    axes = np.indices(moving.shape, np.float32)
    with tempfile.TemporaryDirectory(
        prefix="registration-"
    ) as folder:  # ANTs leaves its transforms in files
        found = ants.registration(
            target, source, type_of_transform=transform, outprefix=f"{folder}/"
        )["fwdtransforms"]
        warped = [
            ants.apply_transforms(
                target, ants.from_numpy(axis), found, interpolator="linear", defaultvalue=-1
            )
            for axis in axes
        ]
        return np.stack([axis.numpy() for axis in warped])


def warp_nearest(mask: np.ndarray, places: np.ndarray) -> np.ndarray:
    """`mask` (H, W) bool brought through a `slice_map` (2, H, W), by nearest neighbour; False for what comes from outside."""
    row, column = np.rint(places).astype(int)
    return np.where(places[0] >= 0, mask[row, column], False)


def open_close(mask: np.ndarray) -> np.ndarray:
    """5x5 opening, then closing, of (H, W) bool. As in OpenCV, what lies outside the picture neither grows nor eats the mask."""
    opened = binary_dilation(binary_erosion(mask, RECTANGLE, border_value=1), RECTANGLE)
    return binary_erosion(binary_dilation(opened, RECTANGLE), RECTANGLE, border_value=1)


def signed_distance(mask: np.ndarray) -> np.ndarray:
    """Distance of each element of a bool array to the outline, float32, positive inside, at most FAR either way."""
    if mask.all() or not mask.any():
        return np.where(mask, FAR, -FAR).astype(np.float32)
    inside, outside = distance_transform_edt(mask) - 0.5, 0.5 - distance_transform_edt(~mask)
    return np.clip(np.where(mask, inside, outside), -FAR, FAR).astype(np.float32)


def carry(
    slices: np.ndarray,
    mask: np.ndarray,
    transform: str = "SyN",
    seed: int = 1337,
    guide: Guide | None = None,
) -> Carried:
    """Carry `mask` (H, W) of slices[0] outwards over `slices` (n, H, W; float32, 0..255).

    As published (spec section 1): each slice is registered to the next one and the label goes along by nearest neighbour, then
    opening and closing; where nothing is left of it there is nothing more to carry. With a guide (not published) its signed
    distance goes along by linear interpolation, and is put right about the line that the guide knows before it is cleaned.
    Of the truth this sees `mask` and `guide` alone.
    """
    mask = mask > 0
    label = np.zeros(slices.shape, np.uint8)
    label[0] = mask
    failed = 0
    for k in range(1, len(slices)):
        try:
            places = slice_map(slices[k], slices[k - 1], transform, seed)
        except RuntimeError:
            failed, places = failed + 1, np.indices(mask.shape, np.float32)
        mask = open_close(
            warp_nearest(mask, places)
            if guide is None
            else _corrected(_warp_distance(mask, places), guide, k) > 0
        )
        label[k] = mask
        if not mask.any():
            break
    return Carried(label, failed)


def _warp_distance(mask: np.ndarray, places: np.ndarray) -> np.ndarray:
    warped = map_coordinates(signed_distance(mask), np.maximum(places, 0), order=1, mode="nearest")
    return np.where(places[0] >= 0, warped, -FAR)


def _corrected(distance: np.ndarray, guide: Guide, k: int) -> np.ndarray:
    """Add what is wrong on the known line, fading with the distance from it."""
    wrong = guide.distance[k] - np.take(distance, guide.position, guide.axis)
    away = np.arange(distance.shape[guide.axis]) - guide.position
    fade = np.exp(-(away**2) / (2 * REACH**2))
    return distance + np.expand_dims(gaussian_filter1d(wrong, SOFTEN), guide.axis) * np.expand_dims(
        fade, 1 - guide.axis
    )


def fuse(
    labels: tuple[np.ndarray, np.ndarray], places: tuple[tuple[int, int], tuple[int, int]]
) -> np.ndarray:
    """One label of two (X, Y, Z) bool, each carried from the slice `places` (axis, index): uint8, not published.

    Their signed distances are averaged, each weighted by the inverse of the distance from its annotated slice.
    """
    total, weights = np.zeros(labels[0].shape, np.float32), np.zeros(labels[0].shape, np.float32)
    for label, (axis, index) in zip(labels, places, strict=True):
        away = np.abs(np.arange(label.shape[axis], dtype=np.float32) - index)
        weight = np.expand_dims(1 / (away + 10), [k for k in range(label.ndim) if k != axis])
        total += weight * signed_distance(label)
        weights += weight
    return (gaussian_filter(total / weights, SMOOTH) > 0).astype(np.uint8)
