"""What KiTS19 and LiTS share, as DeSCO and CoGRNet prepared them: window, body mask, crop by body and label, one size for all."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy.ndimage import label as components
from scipy.ndimage import maximum_filter

from datasets.prepare.crop import Box, box_of, checked_box, label_range, needs_label, not_empty
from datasets.prepare.lists import write_lists
from datasets.prepare.prepared_files import (
    Output,
    RawCase,
    crop_attributes,
    grid_attributes,
    source_attributes,
)
from scans.geometry import lay_onto
from scans.reading import read_label

AROUND_BODY, AROUND_LABEL = 20, 10  # voxels; slices
# Soft tissue lies between these two windowed values. The published code computes both bounds in floating point:
# the lower one is 0.09999999999999998, so a voxel at exactly 0.1 (LiTS -70 HU, KiTS19 -120 HU) is tissue.
TISSUE_ABOVE = 0.5 - 0.4
TISSUE_BELOW = 0.5 + 0.4
# Version 1 wrote files with a lower bound of 0.1. A changed version makes prepare_data.py report them.
VERSION = 2
CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], bool)


@dataclass(frozen=True)
class AbdomenPreparation:
    """The common part of both preparations; `size` is x, y, z (a row, a column, slices) of the stored volume, whose axes are z, y, x.

    1. (HU - low) / width in float64, clipped to 0..1. 2. Slice by slice a body mask; outside of it the image becomes 0. 3. Crop: in
    plane to the box of all slices' masks, in depth to the labelled slices, with margins. 4. Linear (labels: nearest) to `size`, voxel 0
    staying where it is. Float32, labels uint8, uncompressed.
    """

    size: tuple[int, int, int]
    crop: str = "published"
    box: Box | None = None

    @property
    def settings(self) -> dict:
        return {
            "dataset": self.info.name,
            "version": VERSION,
            "size": list(self.size),
            "crop": self.crop,
        }

    def listed(self, line: str) -> str:
        return line

    def mark(self, case: RawCase) -> str:
        return self.info.file.format(case.name)

    def prepare(self, case: RawCase, warn) -> Iterator[Output]:
        needs_label(case, self.crop)
        scan, label = case.read_images(warn)[0], None
        if case.label is not None:
            truth = read_label(case.label, (0, 1, 2), "as downloaded", warn)
            label, said = lay_onto(
                str(case.label), truth.array, truth.geometry, scan.shape, scan.geometry
            )
            warn(said)
            label = label.transpose(self.stored)
        if self.crop == "published":
            not_empty(case, label)
        warn(self.slices_lie_elsewhere(scan))
        array = scan.array.transpose(self.stored)
        masks = np.stack([body_mask(self.windowed(plane)) for plane in array])
        if self.crop == "published":
            start, stop = crop_box(masks, label)
        else:
            start, stop = (
                np.array(end)[list(self.stored)]
                for end in checked_box(self.box, str(scan.path), scan.shape)
            )
        box = box_of(start, stop)
        image = self.windowed(array[box]) * masks[box]
        label = (
            None
            if label is None
            else resampled(np.ascontiguousarray(label[box]), self.size, sitk.sitkNearestNeighbor)
        )
        step = np.array(image.shape) / self.size[::-1]
        image = resampled(image, self.size, sitk.sitkLinear).astype(np.float32)
        # back to the order of the file's indices, in which grids and boxes are told
        back = np.argsort(self.stored)
        geometry = scan.geometry.cropped(np.array(start)[back]).stepped(step[back])
        grid = grid_attributes(geometry, self.stored, "zyx")
        cut = crop_attributes(np.array(start)[back], np.array(stop)[back])
        yield Output(self.mark(case), image, label, {**grid, **cut, **source_attributes(scan)})

    def windowed(self, array: np.ndarray) -> np.ndarray:
        low, width = self.window
        return ((array.astype(np.float64) - low) / width).clip(0, 1)

    def slices_lie_elsewhere(self, scan) -> str | None:
        """A warning where the axis that is taken for the slices' does not run between head and feet, by the header."""
        axis = self.stored[0]
        if abs(scan.geometry.direction[2, axis]) > 0.7:
            return None
        return (
            f"{scan.path}: by the header the slices do not lie along axis {axis} of the file, where the published preparation takes them; "
            f"use the official download"
        )

    def write_lists(self, root: Path) -> list[str]:
        return write_lists(root, self.info.name, self.info.file.format)


def body_mask(plane: np.ndarray) -> np.ndarray:
    """Mask (H, W) of the body on one slice of windowed values (H, W; float64, 0..1).

    The voxels of soft tissue are dilated, the largest piece is kept, dilated, its holes are filled, and it is dilated
    again. A slice without soft tissue counts as body everywhere, as in the published preparation.
    """
    soft_tissue = (plane > TISSUE_ABOVE) & (plane < TISSUE_BELOW)
    pieces, count = components(widened(soft_tissue, 5), CROSS)
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)
    sizes[0] = 0
    largest = pieces == sizes.argmax()
    body = filled(widened(largest, 4))
    return widened(body, 3)


def widened(mask: np.ndarray, side: int) -> np.ndarray:
    """Dilation by a square; of an even side by one voxel more towards lower indices, as scikit-image does it."""
    return maximum_filter(
        mask.view(np.uint8), side, mode="constant", origin=0 if side % 2 else -1
    ).view(bool)


def filled(mask: np.ndarray) -> np.ndarray:
    """With its holes: the pieces of the background that do not reach the slice's edge."""
    pieces, count = components(~mask, CROSS)
    outside = np.zeros(count + 1, bool)
    for edge in (pieces[0], pieces[-1], pieces[:, 0], pieces[:, -1]):
        outside[edge] = True
    outside[0] = False
    return ~outside[pieces]


def crop_box(masks: np.ndarray, label: np.ndarray) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """First voxel and the one after the last, along slices, rows, columns."""
    first, last = label_range(label, 0)
    start, stop = [max(first - AROUND_LABEL, 0)], [min(last + AROUND_LABEL, len(masks))]
    whole = masks.any(0)
    for axis in (0, 1):
        low, high = label_range(whole, axis)
        start.append(max(low - AROUND_BODY, 0))
        stop.append(min(high + AROUND_BODY, whole.shape[axis]))
    return tuple(start), tuple(stop)


def resampled(array: np.ndarray, size: tuple[int, int, int], interpolator: int) -> np.ndarray:
    """(z, y, x) to `size` (x, y, z): voxel i of the new axis is at i * old / new of the old one, and beyond the old one's end 0."""
    image = sitk.GetImageFromArray(array)
    spacing = [old / new for old, new in zip(image.GetSize(), size, strict=True)]
    grid = (image.GetOrigin(), spacing, image.GetDirection())
    return sitk.GetArrayFromImage(
        sitk.Resample(image, size, sitk.Transform(), interpolator, *grid, 0.0)
    )
