"""Fingerprints of images: equal for copies of one scan, whatever file, header, number type or
orientation they were saved with.
"""

import hashlib
from collections.abc import Iterable

import numpy as np

from utils.axes import other_axes

ENOUGH = 4
"""How many different planes an image needs along two of its axes: with fewer it is a blank or
nearly blank image.
"""

BLOCK = 2**16
"""Voxels that are hashed at a time: as many as the processor's cache holds."""


def fingerprint(image: np.ndarray) -> str:
    """Compute the fingerprint of an image of any number of axes; empty for a blank one, which many
    scans share.

    It does not change when axes are flipped or exchanged, nor with the number type
    (values count as float32). For every axis, the voxels of each plane are hashed without regard to
    their order; the planes are then hashed in order, from the end that comes first.
    """
    if np.ndim(image) < 2:
        return ""
    sums = _plane_sums(image)
    axes_with_contents = sum(len(np.unique(planes)) >= ENOUGH for planes in sums)
    if axes_with_contents < 2:
        return ""
    axes = sorted(_from_smaller_end(planes) for planes in sums)
    return hashlib.blake2b(b"|".join(axes), digest_size=12).hexdigest()


def fingerprints(images: Iterable[np.ndarray]) -> list[str]:
    """The fingerprints of the images, in their order; blank ones and repetitions are omitted."""
    unique = dict.fromkeys(fingerprint(image) for image in images)
    return [one for one in unique if one]


def _plane_sums(image: np.ndarray) -> list[np.ndarray]:
    """For each axis the sums (uint64, modulo 2**64) of the scrambled voxels of its planes.

    Integer sums do not depend on the order.
    """
    image = np.asarray(image)
    if not image.flags.c_contiguous and image.T.flags.c_contiguous:
        image = image.T  # scans are read with their axes reversed: this avoids a copy
    sums = [np.zeros(side, np.uint64) for side in image.shape]
    voxels_of_plane = max(int(np.prod(image.shape[1:])), 1)
    step = max(BLOCK // voxels_of_plane, 1)
    for start in range(0, len(image), step):
        block = _scrambled(image[start : start + step])
        sums[0][start : start + step] = _sum_over_others(block, axis=0)
        for axis in range(1, image.ndim):
            sums[axis] += _sum_over_others(block, axis)
    return sums


def _sum_over_others(block: np.ndarray, axis: int) -> np.ndarray:
    return block.sum(axis=other_axes(block.ndim, axis), dtype=np.uint64)


def _scrambled(values: np.ndarray) -> np.ndarray:
    """Each value as float32, its bits mixed into a uint64, so that equal sums mean equal values."""
    with np.errstate(over="ignore", invalid="ignore"):
        numbers = np.add(values, 0, dtype=np.float32, casting="unsafe")  # + 0 turns -0 into 0
    bits = np.ascontiguousarray(numbers).view(np.uint32).astype(np.uint64)
    bits *= np.uint64(0x9E3779B97F4A7C15)
    bits ^= bits >> np.uint64(29)
    bits *= np.uint64(0xBF58476D1CE4E5B9)
    bits ^= bits >> np.uint64(32)
    return bits


def _from_smaller_end(planes: np.ndarray) -> bytes:
    """The sums of the planes as bytes, forwards or backwards, whichever comes first."""
    return min(planes.astype("<u8").tobytes(), planes[::-1].astype("<u8").tobytes())
