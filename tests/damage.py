"""Scans to damage, and damage: what the tests of readers and the campaign share."""

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import SimpleITK as sitk

VOXELS_BEGIN = {"mha": (b"LOCAL\n", 6), "nrrd": (b"\n\n", 2), "nii.gz": (b"", 20)}

# headers that end a process which hands them to ITK: a negative number of axes, sizes whose product
# overflows, a pattern that writes to memory, and a line longer than a reader's buffer
CRASHES = {
    "negative.mha": b"ObjectType = Image\nNDims = -3\nBinaryData = True\nElementSpacing = 1 1 1\nDimSize = 4 4 4\n"
    b"ElementType = MET_UCHAR\nElementDataFile = LOCAL\n" + bytes(64),
    "overflow.mha": b"ObjectType = Image\nNDims = 3\nBinaryData = True\nElementSpacing = 1 1 1\n"
    b"DimSize = 4294967296 4294967296 4294967296\nElementType = MET_UCHAR\nElementDataFile = LOCAL\n" + bytes(64),
    "pattern.mhd": b"ObjectType = Image\nNDims = 3\nBinaryData = True\nElementSpacing = 1 1 1\nDimSize = 4 4 2\n"
    b"ElementType = MET_UCHAR\nElementDataFile = /etc/%n%n%n%n 1 2 1\n",
    "long.nrrd": b"NRRD0004\n" + b"x" * 5000,
}  # fmt: skip


def whole_scan(folder: Path, ending: str) -> tuple[bytes, np.ndarray]:
    """The bytes of a compressed scan, and its voxels (x, y, z)."""
    truth = np.random.default_rng(0).normal(100, 30, (14, 20, 20)).astype(np.int16)
    path = folder / f"whole.{ending}"
    sitk.WriteImage(sitk.GetImageFromArray(truth), str(path), useCompression=True)
    return path.read_bytes(), truth.T


def damaged_scans(whole: bytes, ending: str, count: int, seed: int) -> Iterator[bytes]:
    """`count` files whose voxel data are damaged: a bit, the end missing, a hole of zeros, a byte,
    all in turn.
    """
    mark, length = VOXELS_BEGIN[ending]
    start = whole.find(mark) + length
    rng = random.Random(seed)
    number = 0
    while number < count:
        data = bytearray(whole)
        kind = number % 4
        place = rng.randrange(start, len(data))
        if kind == 0:
            data[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del data[place:]
        elif kind == 2:
            hole = data[place : place + 512]
            data[place : place + 512] = bytes(len(hole))
        else:
            data[place] = rng.randrange(256)
        if bytes(data) != whole:
            number += 1
            yield bytes(data)
