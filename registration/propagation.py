"""Propagate a label from one annotated slice through a volume by 2-D registration.

CoGRNet's coarse labels are made this way. All lengths are in voxels. antspyx is imported inside the
function that registers, because importing it takes seconds.
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

from utils.axes import other_axes

RECTANGLE = np.ones((5, 5), bool)
# All in voxels. Dice on LA hardly depends on these values (docs/results/cogrnet.md).
REACH = 4.0  # how far a known line corrects its slice (standard deviation)
SOFTEN = 2.0  # how much the correction is smoothed along the line
SMOOTH = 1.5  # how much the fused distances are smoothed
FAR = 20.0  # larger distances are clipped to this
BLUR_OFFSET = 10.0  # keeps the weight of a label finite at its annotated slice


@dataclass(frozen=True)
class Guide:
    """A line in each slice of this plane on which the label is known.

    It comes from the annotated slice of the other plane. `distance` (n, L) float32: signed distance
    to the outline in the other plane's slice, positive inside. The line lies at `position` of the
    slice's `axis` (0 or 1).
    """

    distance: np.ndarray
    axis: int
    position: int


@dataclass(frozen=True)
class Carried:
    """The label of one direction: `label` (n, H, W) uint8, annotated slice first.

    `failed`: number of registrations without a result (for example a slice of constant intensity).
    There the label was copied unchanged from the slice before.
    """

    label: np.ndarray
    failed: int


def scale_255(volume: np.ndarray, whole: bool = False) -> np.ndarray:
    """Scale (...) to float32 0..255, from minimum to maximum; a constant volume becomes 0.

    `whole`: round to whole numbers, as in the 8-bit pictures that the published code writes its
    slices to.
    """
    volume = volume.astype(np.float32)
    low = volume.min()
    high = volume.max()
    if high <= low:
        return np.zeros_like(volume)
    scaled = (volume - low) / (high - low) * 255
    if whole:
        return np.rint(scaled)
    return scaled


def slice_map(
    fixed: np.ndarray, moving: np.ndarray, transform: str = "SyN", seed: int = 1337
) -> np.ndarray:
    """Register the slice `moving` to `fixed` (both (H, W) float32, 0..255).

    Returns (2, H, W) float32: for each pixel of `fixed` its row and column in `moving`, -1 where
    that lies outside. Raises RuntimeError where ANTs fails. The result depends only on the
    arguments: ANTs takes its sampling seed from the environment (antspyx 0.6 ignores a
    `random_seed` argument), and with one thread it sums in a fixed order.
    """
    if np.ptp(fixed) == 0 or np.ptp(moving) == 0:
        raise RuntimeError("a slice of constant intensity cannot be registered")
    os.environ["ANTS_RANDOM_SEED"] = str(seed)
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = "1"
    import ants

    target = ants.from_numpy(fixed.astype(np.float32))
    source = ants.from_numpy(moving.astype(np.float32))
    coordinates = []
    with tempfile.TemporaryDirectory(prefix="registration-") as folder:  # for ANTs' transform files
        registration = ants.registration(
            target, source, type_of_transform=transform, outprefix=f"{folder}/"
        )
        for indices in np.indices(moving.shape, np.float32):
            warped = ants.apply_transforms(
                target,
                ants.from_numpy(indices),
                transformlist=registration["fwdtransforms"],
                interpolator="linear",
                defaultvalue=-1,
            )
            assert isinstance(warped, ants.ANTsImage)
            coordinates.append(warped.numpy())
    return np.stack(coordinates)


def warp_nearest(mask: np.ndarray, coordinates: np.ndarray) -> np.ndarray:
    """Warp `mask` (H, W) bool by a `slice_map` (2, H, W), nearest neighbour.

    Pixels from outside become False.
    """
    row, column = np.rint(coordinates).astype(int)
    return np.where(coordinates[0] >= 0, mask[row, column], False)


def open_close(mask: np.ndarray) -> np.ndarray:
    """Open, then close, a mask (H, W) bool by a 5x5 square.

    As in OpenCV, pixels outside the image neither dilate nor erode the mask.
    """
    eroded = binary_erosion(mask, RECTANGLE, border_value=1)
    opened = binary_dilation(eroded, RECTANGLE)
    dilated = binary_dilation(opened, RECTANGLE)
    return binary_erosion(dilated, RECTANGLE, border_value=1)


def signed_distance(mask: np.ndarray) -> np.ndarray:
    """Return each element's distance to the outline of a bool array, float32.

    It is positive inside, and clipped to -FAR..FAR.
    """
    if mask.all() or not mask.any():
        return np.where(mask, FAR, -FAR).astype(np.float32)
    inside = np.asarray(distance_transform_edt(mask)) - 0.5
    outside = 0.5 - np.asarray(distance_transform_edt(~mask))
    return np.clip(np.where(mask, inside, outside), -FAR, FAR).astype(np.float32)


def carry(
    slices: np.ndarray,
    mask: np.ndarray,
    transform: str = "SyN",
    seed: int = 1337,
    guide: Guide | None = None,
) -> Carried:
    """Propagate `mask` (H, W) of slices[0] through `slices` (n, H, W; float32, 0..255).

    As published: each slice is registered to the next one, and the label is warped by nearest
    neighbour, then opened and closed. The propagation stops at the first slice where the label is
    empty. With a guide (not published) the label's signed distance is warped by linear
    interpolation and corrected around the guide's line before the opening. `mask` and `guide` are
    the only ground truth that is used.
    """
    mask = mask > 0
    label = np.zeros(slices.shape, np.uint8)
    label[0] = mask
    failed = 0
    for number in range(1, len(slices)):
        try:
            coordinates = slice_map(
                slices[number], slices[number - 1], transform=transform, seed=seed
            )
        except RuntimeError:
            failed += 1
            coordinates = np.indices(mask.shape, np.float32)
        if guide is None:
            warped = warp_nearest(mask, coordinates)
        else:
            distance = _warp_distance(mask, coordinates)
            warped = _correct(distance, guide, number=number) > 0
        mask = open_close(warped)
        label[number] = mask
        if not mask.any():
            break
    return Carried(label, failed)


def _warp_distance(mask: np.ndarray, coordinates: np.ndarray) -> np.ndarray:
    distance = signed_distance(mask)
    warped = map_coordinates(distance, np.maximum(coordinates, 0), order=1, mode="nearest")
    return np.where(coordinates[0] >= 0, warped, -FAR)


def _correct(distance: np.ndarray, guide: Guide, number: int) -> np.ndarray:
    """Correct the distance (H, W) of slice `number`: fully on the guide's line, and less the
    farther a pixel is from it.
    """
    error = guide.distance[number] - np.take(distance, guide.position, axis=guide.axis)
    error = np.expand_dims(gaussian_filter1d(error, SOFTEN), guide.axis)
    offset = np.arange(distance.shape[guide.axis]) - guide.position
    fade = np.exp(-(offset**2) / (2 * REACH**2))
    return distance + error * np.expand_dims(fade, 1 - guide.axis)


def fuse(
    labels: tuple[np.ndarray, np.ndarray], positions: tuple[tuple[int, int], tuple[int, int]]
) -> np.ndarray:
    """Fuse two labels (X, Y, Z) bool into one, uint8 (not published).

    `positions`: axis and index of the annotated slice from which each label was propagated.
    Averages the labels' signed distances. Each is weighted by 1 / (slices from its annotated
    slice + BLUR_OFFSET).
    """
    total = np.zeros(labels[0].shape, np.float32)
    weights = np.zeros(labels[0].shape, np.float32)
    for label, (axis, index) in zip(labels, positions, strict=True):
        offset = np.abs(np.arange(label.shape[axis], dtype=np.float32) - index)
        weight = np.expand_dims(1 / (offset + BLUR_OFFSET), other_axes(label.ndim, axis))
        total += weight * signed_distance(label)
        weights += weight
    return (gaussian_filter(total / weights, SMOOTH) > 0).astype(np.uint8)
