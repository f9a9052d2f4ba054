"""What KiTS19 and LiTS share, as DeSCO and CoGRNet prepared them: window, body mask, crop by body
and label, one size for all.
"""

from abc import ABC
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from datasets.prepare.crop import (
    Box,
    cropped_to,
    label_range,
    label_to_follow,
    slices_of_box,
)
from datasets.prepare.prepared_files import (
    Output,
    RawCase,
    crop_attributes,
    grid_attributes,
    source_attributes,
)
from datasets.prepare.published import CroppedPreparation, Size
from scans.geometry import Geometry
from scans.reading import Scan
from scans.voxel_file import Warn
from utils.errors import UserError

AROUND_BODY = 20  # voxels
AROUND_LABEL = 10  # slices
# Soft tissue lies between these two windowed values. The published code computes both bounds in
# floating point: the lower one is 0.09999999999999998, so a voxel at exactly 0.1 (LiTS -70 HU,
# KiTS19 -120 HU) is tissue.
TISSUE_ABOVE = 0.5 - 0.4
TISSUE_BELOW = 0.5 + 0.4
CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], bool)
SMALLEST_SIDE = 8
LARGEST_SIDE = 1024


@dataclass(frozen=True)
class AbdomenPreparation(CroppedPreparation, ABC):
    """The common part of both preparations; `size` is x, y, z (a row, a column, slices) of the
    stored volume, whose axes are z, y, x.

    1. (HU - low) / width in float64, clipped to 0..1. 2. Slice by slice a body mask; outside of it
    the image becomes 0. 3. Crop: in plane to the box of all slices' masks, in depth to the labelled
    slices, with margins. 4. Linear (labels: nearest) to `size`; voxel 0 stays where it is. Float32,
    labels uint8, uncompressed.

    `window`: low and width in HU. `stored`: which axis of the file each axis of the stored volume
    is.
    """

    size: Size = (0, 0, 0)
    # Version 1 had a lower bound of tissue of 0.1.
    version = 2
    window: ClassVar[tuple[int, int]]
    stored: ClassVar[tuple[int, int, int]]

    def __post_init__(self) -> None:
        """Raise UserError for a size that no volume can have."""
        if not all(SMALLEST_SIDE <= voxels <= LARGEST_SIDE for voxels in self.size):
            written = " ".join(map(str, self.size))
            raise UserError(
                f"--size {written}: expected three numbers from {SMALLEST_SIDE} to {LARGEST_SIDE}"
            )

    @property
    def image_steps(self) -> str:
        """What turns a scan into the input of a network, in words."""
        low, width = self.window
        size = " x ".join(map(str, self.size))
        return (
            f"HU from {low} to {low + width} to 0..1; 0 outside the body; crop to the body and the "
            f"labelled slices; resized to {size} (x, y, z)"
        )

    def prepare(self, case: RawCase, warn: Warn) -> Iterator[Output]:
        """Yield the volume."""
        self.check_label_exists(case)
        scan = case.read_images(warn)[0]
        label = None
        if case.label is not None:
            label = self.read_label(case.label, scan, warn=warn).transpose(self.stored)
        if self.crop == "published":
            label_to_follow(case, label)
        warn(self._slice_axis_warning(scan))
        array = scan.array.transpose(self.stored)
        masks = np.stack([body_mask(self.windowed(plane)) for plane in array])
        start, stop = self._stored_box(scan, masks=masks, label=label)
        box = slices_of_box(start, stop)
        image = self.windowed(array[box]) * masks[box]
        step = np.array(image.shape) / self.size[::-1]
        image = resampled(image, self.size, sitk.sitkLinear).astype(np.float32)
        label = cropped_to(label, box)
        if label is not None:
            label = resampled(label, self.size, sitk.sitkNearestNeighbor)
        # grids and boxes are recorded in the order of the file's axes
        file_order = np.argsort(self.stored)
        file_start = np.array(start)[file_order].tolist()
        file_stop = np.array(stop)[file_order].tolist()
        geometry = scan.geometry.cropped(file_start).stepped(step[file_order].tolist())
        attributes = grid_attributes(geometry, self.stored, file_axes="zyx")
        attributes |= crop_attributes(file_start, file_stop)
        attributes |= source_attributes(scan)
        yield Output(self.last_file(case), image=image, label=label, attributes=attributes)

    def _stored_box(self, scan: Scan, masks: np.ndarray, label: np.ndarray | None) -> Box:
        """The part that is kept, in the order of the stored axes."""
        if self.crop == "published" and label is not None:
            return crop_box(masks, label)
        start, stop = self.chosen_box(scan)
        axes = self.stored
        return tuple(start[axis] for axis in axes), tuple(stop[axis] for axis in axes)

    def windowed(self, array: np.ndarray) -> np.ndarray:
        """HU as 0..1 (float64) in the window."""
        low, width = self.window
        return ((array.astype(np.float64) - low) / width).clip(0, 1)

    def prepared_shape(self, shape: Sequence[int], geometry: Geometry) -> tuple[int, ...]:
        """The size, which all volumes have."""
        return self.size

    def _slice_axis_warning(self, scan: Scan) -> str | None:
        """A warning where the axis that is taken for the slices' does not run between head and
        feet, according to the header.
        """
        axis = self.stored[0]
        if abs(scan.geometry.direction[2, axis]) > 0.7:
            return None
        return (
            f"{scan.path}: according to the header the slices do not lie along axis {axis} of the "
            "file, where the published preparation takes them; use the official download"
        )


def body_mask(plane: np.ndarray) -> np.ndarray:
    """Mask (H, W) of the body on one slice of windowed values (H, W; float64, 0..1).

    The voxels of soft tissue are dilated, the largest piece is kept, dilated, its holes are filled,
    and it is dilated again. A slice without soft tissue counts as body everywhere, as in the
    published preparation.
    """
    soft_tissue = (plane > TISSUE_ABOVE) & (plane < TISSUE_BELOW)
    pieces, count = _pieces(dilated(soft_tissue, 5))
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)
    sizes[0] = 0
    largest = pieces == sizes.argmax()
    body = with_holes_filled(dilated(largest, 4))
    return dilated(body, 3)


def _pieces(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """The connected pieces of a mask, numbered from 1, and how many there are."""
    result: Any = ndimage.label(mask, CROSS)  # scipy's types are too wide to unpack
    pieces, count = result
    return pieces, count


def dilated(mask: np.ndarray, side: int) -> np.ndarray:
    """Dilation by a square; of an even side by one voxel more towards lower indices, as
    scikit-image does it.
    """
    origin = 0
    if side % 2 == 0:
        origin = -1
    widened = ndimage.maximum_filter(mask.view(np.uint8), side, mode="constant", origin=origin)
    return widened.view(bool)


def with_holes_filled(mask: np.ndarray) -> np.ndarray:
    """The mask with its holes: the pieces of the background that do not reach the slice's edge."""
    pieces, count = _pieces(~mask)
    outside = np.zeros(count + 1, bool)
    for edge in (pieces[0], pieces[-1], pieces[:, 0], pieces[:, -1]):
        outside[edge] = True
    outside[0] = False
    return ~outside[pieces]


def crop_box(masks: np.ndarray, label: np.ndarray) -> Box:
    """The published crop around the body masks and the label (slices, rows, columns)."""
    first, last = label_range(label, 0)
    start = [max(first - AROUND_LABEL, 0)]
    stop = [min(last + AROUND_LABEL, len(masks))]
    body = np.asarray(masks.any(0))
    for axis in (0, 1):
        low, high = label_range(body, axis)
        start.append(max(low - AROUND_BODY, 0))
        stop.append(min(high + AROUND_BODY, body.shape[axis]))
    return tuple(start), tuple(stop)


def resampled(array: np.ndarray, size: Size, interpolator: int) -> np.ndarray:
    """Resample (z, y, x) to `size` (x, y, z): voxel i of the new axis is at i * old / new of the
    old one.

    Values beyond the end of the old axis are 0.
    """
    image = sitk.GetImageFromArray(array)
    spacing = [old / new for old, new in zip(image.GetSize(), size, strict=True)]
    grid = (image.GetOrigin(), spacing, image.GetDirection())
    result = sitk.Resample(image, size, sitk.Transform(), interpolator, *grid, 0.0)
    return sitk.GetArrayFromImage(result)
