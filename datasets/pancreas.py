"""NIH Pancreas: CT of the abdomen (Roth et al., MICCAI 2015), in the public preparation of CoraNet.

Preparation: NIH Pancreas-CT as CoraNet (which BCP uses) and as MC-Net prepared it: two preparations that do not mix.
"""

import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy.ndimage import affine_transform

from dataloaders.augment import VolumeAugmentation
from dataloaders.dataset_info import DatasetInfo
from dataloaders.two_stream import FourStreamSampler
from dataloaders.volumes import percent_of_cases
from datasets.base import REPOSITORY
from datasets.prepare.crop import Box, box_of, checked_box, label_range, needs_label, not_empty
from datasets.prepare.flips import fits_better_flipped, spreads
from datasets.prepare.lists import write_lists
from datasets.prepare.prepared_files import (
    Output,
    RawCase,
    crop_attributes,
    grid_attributes,
    source_attributes,
)
from datasets.templates import patches, volumes
from methods.copy_paste import Pasting
from scans.geometry import Geometry, lay_onto
from scans.reading import Scan, read_label
from utils.errors import UserError
from utils.files import files_below
from utils.pseudo_label import class_pseudo_label

INFO = DatasetInfo(
    name="Pancreas",
    class_names=("background", "pancreas"),
    dims=3,
    file="data/{}.h5",
    train_list="train_lab.txt",
    unlabelled_list="train_unlab.txt",
    test_list="test.txt",
    axes="xyz",
)
DATASET = volumes(
    info=INFO,
    cases=percent_of_cases,
    sampler=lambda settings: FourStreamSampler,
    spatial=partial(
        patches,
        labelled=VolumeAugmentation((), spare=1, turn=False),
        unlabelled=VolumeAugmentation((), spare=1, turn=False, centre=True),
    ),
    pasting=Pasting(
        "whole",
        unlabelled_outside=(True, False),
        pseudo_label=partial(class_pseudo_label, connectivity=18),
        crossed=True,
    ),
    keeps_optimizer=True,
    numbers={
        "exp": "cutmix",
        "model": "VNet_pancreas",
        "labelnum": 20,
        "patch_size": (96, 96, 96),
        "batch_size": 8,
        "labeled_bs": 4,
        "unit": "epoch",
        "pre_iterations": 60,
        "max_iterations": 200,
        "val_every": 20,
        "optimizer": "adam",
        "base_lr": 1e-3,
        "weight_decay": 0.0,
        "pre_weight_decay": 0.0,
        "pre_losses": (("dice", 0.55), ("ce", 0.45)),
        "losses": (("dice", 0.42), ("ce", 0.58)),
        "box_end": 5 / 9,
        "static_start": 10,
        "static_step": 5,
        "static_range": (5, 20),
        "val_stride": (18, 18, 4),
        "select": "test",
    },
    methods={
        "bcp": {
            "pre_losses": (("dice", 0.5), ("ce", 0.5)),
            "losses": (("dice", 0.5), ("ce", 0.5)),
            "seed": 2020,
        }
    },
    stride=(16, 16, 4),
    test_numbers={"exp": "cutmix", "labelnum": 20, "model": "VNet_pancreas", "which": "both"},
    folder=lambda output_root, exp, labelnum: (
        (output_root or REPOSITORY / "pancreas" / "result") / exp
    ),
    best_name=lambda stage, model, labelnum: (
        f"best_ema_{labelnum}_{stage.removesuffix('_train')}.pth"
    ),
    published_pretraining="pretrain/best_ema{labelnum}_pre.pth",
    published_layout="net",
    module_prefix="always",
)


LOW, HIGH = -125, 275  # HU
STORED = (0, 1, 2)  # x, y, z
PATCH = 96
CASE = re.compile(r"PANCREAS_(\d{4})(\.nii(\.gz)?)?", re.IGNORECASE)
LABEL = re.compile(r"label(\d{4})\.nii(\.gz)?", re.IGNORECASE)


@dataclass(frozen=True)
class PancreasPreparation:
    """`PANCREAS_NNNN/<study>/<series>/*.dcm` (or `PANCREAS_NNNN.nii.gz`) and `labelNNNN.nii.gz`, anywhere below the source.

    coranet: every axis is scaled by the in-plane spacing s in mm, linearly, labels nearest, whole HU staying whole: voxels taken for
    cubes of s mm and brought to 1 mm, so that a slice is 1 mm wide a voxel but slices keep their distance over s. Beyond the scan lies
    0 HU. Then the window, the scale to 0..1 over the volume, and the crop in three axes. Float64, uncompressed.
    mcnet: 1 mm in all axes, B-spline, labels nearest; the window as 0..1; crop in x and y; z-score of the crop. Float32, gzip.
    """

    variant: str = "coranet"
    crop: str = "published"
    box: Box | None = None
    info = INFO

    @property
    def settings(self) -> dict:
        return {"dataset": INFO.name, "version": 1, "variant": self.variant, "crop": self.crop}

    def find(self, source: Path) -> list[RawCase]:
        labels: dict[str, Path] = {}
        images: dict[str, Path] = {}
        for path in files_below(source):
            for pattern, found in ((CASE, images), (LABEL, labels)):
                if (name := pattern.fullmatch(path.name)) and (
                    path.is_dir() or pattern is LABEL or name[2]
                ):
                    other = found.setdefault(name[1], path)
                    if other != path and other not in path.parents:
                        raise UserError(
                            f"{path}: the same number as {other}; take one of them away"
                        )
        return [
            RawCase(self.file_name(number), (path,), labels.get(number))
            for number, path in images.items()
        ]

    def file_name(self, number: str) -> str:
        return number if self.variant == "coranet" else f"image{number}_norm"

    def listed(self, line: str) -> str:
        return self.file_name(line.strip().removesuffix(".h5"))

    def mark(self, case: RawCase) -> str:
        return INFO.file.format(case.name)

    def prepare(self, case: RawCase, warn) -> Iterator[Output]:
        needs_label(case, self.crop)
        scan, label = case.read_images(warn)[0], None
        if case.label is not None:
            truth = read_label(case.label, (0, 1), "as downloaded", warn)
            label, said = lay_onto(
                str(case.label), truth.array, truth.geometry, scan.shape, scan.geometry
            )
            warn(said)
            warn(fits_better_flipped(case.label, scan.array, spreads(scan.array, label)))
        if self.crop == "published":
            not_empty(case, label)
        make = coranet if self.variant == "coranet" else mcnet
        image, label, geometry, box = make(
            scan, label, self.crop == "published", checked_box(self.box, str(scan.path), scan.shape)
        )
        attributes = {
            **grid_attributes(geometry, STORED, "xyz"),
            **crop_attributes(*box),
            **source_attributes(scan),
        }
        options = {} if self.variant == "coranet" else {"compression": "gzip"}
        yield Output(self.mark(case), image, label, attributes, options)

    def write_lists(self, root: Path) -> list[str]:
        keep = self.variant == "coranet"
        return write_lists(
            root,
            INFO.name,
            lambda line: INFO.file.format(self.listed(line)),
            str if keep else self.listed,
        )


Made = tuple[np.ndarray, np.ndarray | None, Geometry, tuple[np.ndarray, np.ndarray]]


def coranet(scan: Scan, label: np.ndarray | None, crop: bool, part: Box) -> Made:
    """Image (float64, 0..1), label (uint8), their grid, and the crop box in voxels of the resampled scan; `part` is kept if not `crop`."""
    s = float(scan.geometry.spacing[1])
    shape = tuple(np.round(np.array(scan.shape) * s).astype(int))
    if min(shape) < 1:
        raise UserError(
            f"{scan.path}: nothing is left at 1 mm of {scan.shape} voxels of {s:g} mm; look at the spacing in its header"
        )

    def scaled(array: np.ndarray, order: int) -> np.ndarray:
        with (
            warnings.catch_warnings()
        ):  # scipy reminds of a change in 0.18 that offsets alone were affected by
            warnings.simplefilter("ignore", UserWarning)
            return affine_transform(
                array, np.full(3, 1 / s), output_shape=shape, order=order, mode="constant", cval=0
            )

    image = scaled(scan.array, 1).clip(LOW, HIGH).astype(np.float64)
    label = None if label is None else scaled(label, 0)
    low, high = image.min(), image.max()
    if low == high:
        raise UserError(
            f"{scan.path}: every voxel is at or beyond one end of the window {LOW}..{HIGH} HU; is it a CT in HU?"
        )
    image = (image - low) / (high - low)
    start, stop = _scaled_box(part, np.full(3, s), shape)
    if crop:
        _check_left(scan, label)
        start, stop = np.array(
            [coranet_range(*label_range(label, axis), shape[axis]) for axis in range(3)]
        ).T
        box = box_of(start, stop)
        fill = [(0, max(PATCH - (b - a), 0)) for a, b in zip(start, stop, strict=True)]
        image, label = np.pad(image[box], fill), np.pad(label[box], fill)
    else:
        image, label = _part(image, label, start, stop)
    return image, label, scan.geometry.stepped(np.full(3, 1 / s)).cropped(start), (start, stop)


def coranet_range(low: int, high: int, length: int) -> tuple[int, int]:
    """The crop along one axis: 25 voxels below the label's first and 26 above its last, at least 96, moved inside the scan."""
    start, stop = max(low - 25, 0), min(high + 27, length)
    lacking = max(min(PATCH, length) - (stop - start), 0)
    start, stop = start - lacking // 2, stop + lacking - lacking // 2
    move = max(-start, 0) - max(stop - length, 0)
    return start + move, stop + move


def mcnet(scan: Scan, label: np.ndarray | None, crop: bool, part: Box) -> Made:
    """Image (float32, z-scored), label (uint8), their grid, and the crop box in voxels of the resampled scan; `part` as in `coranet`."""
    size = [int(n * mm) for n, mm in zip(scan.shape, scan.geometry.spacing, strict=True)]
    if min(size) < 1:
        raise UserError(
            f"{scan.path}: less than 1 mm of tissue along an axis; look at the spacing in its header"
        )

    def scaled(array: np.ndarray, interpolator: int) -> np.ndarray:
        image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
        image.SetSpacing(scan.geometry.spacing.tolist())
        same_place = (image.GetOrigin(), (1.0, 1.0, 1.0), image.GetDirection())
        return sitk.GetArrayFromImage(
            sitk.Resample(image, size, sitk.Transform(), interpolator, *same_place, 0.0)
        ).T

    image = (scaled(scan.array, sitk.sitkBSpline).astype(np.float64).clip(LOW, HIGH) - LOW) / (
        HIGH - LOW
    )
    label = None if label is None else scaled(label, sitk.sitkNearestNeighbor)
    start, stop = _scaled_box(part, scan.geometry.spacing, size)
    if crop:
        _check_left(scan, label)
        for axis in (0, 1):
            low, high = label_range(label, axis)
            margin = 25 + max(PATCH - (high - low), 0) // 2
            start[axis], stop[axis] = max(low - margin, 0), min(high + margin, size[axis])
    image, label = _part(image, label, start, stop)
    image = image.astype(np.float32)
    if image.min() == image.max():
        raise UserError(
            f"{scan.path}: every voxel is at or beyond one end of the window {LOW}..{HIGH} HU; is it a CT in HU?"
        )
    image = (image - image.mean()) / image.std()
    return (
        image,
        None if label is None else np.ascontiguousarray(label),
        scan.geometry.stepped(1 / scan.geometry.spacing).cropped(start),
        (start, stop),
    )


def _scaled_box(
    part: Box, scale: np.ndarray, shape: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """A box of the scan in voxels of the resampled one, which has `scale` of them a voxel and is of `shape`."""
    stop = np.minimum(np.ceil(np.array(part[1]) * scale), shape).astype(int)
    return np.minimum(np.floor(np.array(part[0]) * scale).astype(int), stop - 1), stop


def _part(
    image: np.ndarray, label: np.ndarray | None, start: np.ndarray, stop: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None]:
    box = box_of(start, stop)
    return image[box], None if label is None else label[box]


def _check_left(scan: Scan, label: np.ndarray) -> None:
    if not label.any():
        raise UserError(
            f"{scan.path}: nothing of the label is left after resampling; mend the label, or --crop none"
        )
