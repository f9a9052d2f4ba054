"""NIH Pancreas-CT: CT of the abdomen (Roth et al., MICCAI 2015), in the public preparation of
CoraNet or of MC-Net.
"""

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from scipy.ndimage import affine_transform

from dataloaders.augment import VolumeAugmentation
from dataloaders.dataset_info import DatasetInfo
from dataloaders.two_stream import FourStreamSampler, TenfoldFourStreamSampler
from dataloaders.volumes import percent_of_cases
from datasets.base import REPOSITORY
from datasets.prepare.crop import (
    Box,
    cropped_to,
    label_range,
    label_to_follow,
    slices_of_box,
)
from datasets.prepare.flips import flip_warning, spreads
from datasets.prepare.prepared_files import (
    GZIP,
    Output,
    RawCase,
    crop_attributes,
    grid_attributes,
    source_attributes,
)
from datasets.prepare.published import CroppedPreparation, add_file
from datasets.published_tags import PANCREAS_TAGS
from datasets.templates import patches, volumes
from methods.copy_paste import Pasting
from scans.geometry import Geometry
from scans.reading import Scan
from scans.voxel_file import Warn
from training.config import AnyConfig
from utils.errors import UserError
from utils.files import files_below
from utils.pseudo_label import class_pseudo_label
from utils.registry import find

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
LOW = -125  # HU
HIGH = 275
STORED = (0, 1, 2)  # x, y, z
PATCH = 96
MARGIN = 25
CASE = re.compile(r"PANCREAS_(\d{4})(\.nii(\.gz)?)?", re.IGNORECASE)
LABEL = re.compile(r"label(\d{4})\.nii(\.gz)?", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class ResampledCase:
    """A resampled case; `box` is the part of it that is kept, in its own voxels."""

    image: np.ndarray
    label: np.ndarray | None
    geometry: Geometry
    box: Box


@dataclass(frozen=True)
class PancreasPreparation(CroppedPreparation):
    """The preparations of CoraNet (which BCP uses) and of MC-Net, which must not be mixed.

    Reads `PANCREAS_NNNN/<study>/<series>/*.dcm` (or `PANCREAS_NNNN.nii.gz`) and `labelNNNN.nii.gz`,
    anywhere below the source.

    coranet: every axis is scaled by the in-plane spacing in mm, as if voxels were cubes with that
    side. A pixel then is 1 mm wide, and the slice distance is divided by the in-plane spacing.
    Images are interpolated linearly and stay whole HU; labels take the nearest voxel. Values beyond
    the scan are 0 HU. The volume is clipped to the window, scaled to 0..1 and cropped in three
    axes. Stored as float64, uncompressed.
    mcnet: 1 mm in all axes, B-spline, labels nearest; the window as 0..1; crop in x and y; z-score
    of the crop. Float32, gzip.
    """

    variant: str = "coranet"
    info = INFO
    other_files = "data/image*_norm.h5"

    def __post_init__(self) -> None:
        """Raise UserError for an unknown variant."""
        find(VARIANTS, self.variant, flag="--variant")

    @property
    def settings(self) -> dict[str, Any]:
        """Everything except the raw scans that decides what is in the prepared files."""
        settings = super().settings
        if self.variant == "mcnet":
            settings["version"] = 2  # version 1 resampled whole HU to whole HU
        return settings

    @property
    def image_steps(self) -> str:
        """What turns a scan into the input of a network, in words."""
        window = f"HU clipped to {LOW}..{HIGH}"
        if self.variant == "coranet":
            return (
                f"each axis scaled by the in-plane spacing in mm; {window}; "
                "(v - min) / (max - min) over the volume; trained on crops around the label"
            )
        return (
            f"resampled to 1 mm; {window}; crop around the label; "
            "(v - mean) / standard deviation over the crop"
        )

    def find(self, source: Path) -> list[RawCase]:
        """Find the images and the labels of the same number."""
        labels: dict[str, Path] = {}
        images: dict[str, Path] = {}
        for path in files_below(source):
            image_name = CASE.fullmatch(path.name)
            label_name = LABEL.fullmatch(path.name)
            if image_name is not None and (path.is_dir() or image_name[2]):
                add_file(images, image_name[1], path)
            if label_name is not None:
                add_file(labels, label_name[1], path)
        return [
            RawCase(self._case_name(number), images=(path,), label=labels.get(number))
            for number, path in images.items()
        ]

    def _case_name(self, number: str) -> str:
        if self.variant == "coranet":
            return number
        return f"image{number}_norm"

    def case_of_line(self, line: str) -> str:
        """The name of the case with the number that a published list has."""
        return self._case_name(line.strip().removesuffix(".h5"))

    def written_line(self, line: str) -> str:
        """The published line for coranet, which the published code reads; else the case's name."""
        if self.variant == "coranet":
            return line
        return self.case_of_line(line)

    def prepare(self, case: RawCase, warn: Warn) -> Iterator[Output]:
        """Yield the volume."""
        self.check_label_exists(case)
        scan = case.read_images(warn)[0]
        label = None
        if case.label is not None:
            label = self.read_label(case.label, scan, warn=warn)
            warn(flip_warning(case.label, scan.array, spreads(scan.array, label)))
        if self.crop == "published":
            label_to_follow(case, label)
        resample = VARIANTS[self.variant]
        resampled = resample(scan, label, crop=self.crop == "published", part=self.chosen_box(scan))
        attributes = grid_attributes(resampled.geometry, STORED, file_axes="xyz")
        attributes |= crop_attributes(*resampled.box)
        attributes |= source_attributes(scan)
        options: Mapping[str, Any] = GZIP
        if self.variant == "coranet":
            options = {}
        yield Output(
            self.last_file(case),
            image=resampled.image,
            label=resampled.label,
            attributes=attributes,
            options=options,
        )

    def prepared_shape(self, shape: Sequence[int], geometry: Geometry) -> tuple[int, ...]:
        """The shape at 1 mm, about that of both variants."""
        kept = super().prepared_shape(shape, geometry)
        return tuple(
            max(round(side * mm), 1) for side, mm in zip(kept, geometry.spacing, strict=True)
        )

    @classmethod
    def variant_warning(
        cls, path: Path, settings: Mapping[str, Any], low: float, high: float
    ) -> str | None:
        """A warning for a file of MC-Net's preparation, on which the protocol does not train."""
        in_range = low >= -1e-3 and high <= 1 + 1e-3
        if in_range and settings.get("variant") != "mcnet":
            return None
        return (
            f"{path}: holds {low:.3g} to {high:.3g}, as MC-Net prepared it; the Pancreas protocol "
            "trains on CoraNet's files, 0 to 1: prepare_data.py --variant coranet, into another "
            "folder"
        )


def coranet(scan: Scan, label: np.ndarray | None, crop: bool, part: Box) -> ResampledCase:
    """CoraNet's image (float64, 0..1) and label (uint8); `part` is kept if not `crop`."""
    scale = float(scan.geometry.spacing[1])
    shape = tuple(np.round(np.array(scan.shape) * scale).astype(int).tolist())
    if min(shape) < 1:
        raise UserError(
            f"{scan.path}: {scan.shape} voxels of {scale:g} mm are less than 1 mm; correct the "
            "spacing in its header"
        )
    image = _scaled(scan.array, scale, shape=shape, order=1).clip(LOW, HIGH).astype(np.float64)
    low = image.min()
    high = image.max()
    if low == high:
        raise UserError(_outside_window(scan))
    image = (image - low) / (high - low)
    if label is not None:
        label = _scaled(label, scale, shape=shape, order=0)
    start, stop = _scaled_box(part, np.full(3, scale), shape=shape)
    if crop and label is not None:
        _check_not_empty(scan, label)
        ranges = [coranet_range(*label_range(label, axis), shape[axis]) for axis in range(3)]
        start = tuple(first for first, _ in ranges)
        stop = tuple(end for _, end in ranges)
        box = slices_of_box(start, stop)
        fill = [(0, max(PATCH - (end - first), 0)) for first, end in ranges]
        image = np.pad(image[box], fill)
        label = np.pad(label[box], fill)
    else:
        box = slices_of_box(start, stop)
        image = image[box]
        label = cropped_to(label, box)
    geometry = scan.geometry.stepped(np.full(3, 1 / scale).tolist()).cropped(start)
    return ResampledCase(image, label=label, geometry=geometry, box=(start, stop))


def _scaled(array: np.ndarray, scale: float, shape: tuple[int, ...], order: int) -> np.ndarray:
    """An array (x, y, z) with `scale` voxels for each old one, of the same type."""
    with warnings.catch_warnings():
        # scipy warns of a change in version 0.18 that affects only offsets
        warnings.simplefilter("ignore", UserWarning)
        return affine_transform(
            array,
            np.full(3, 1 / scale),
            output_shape=shape,
            order=order,
            mode="constant",
            cval=0,
        )


def coranet_range(low: int, high: int, length: int) -> tuple[int, int]:
    """CoraNet's crop along one axis: 25 voxels below the label's first and 26 above its last, at
    least 96, moved inside the scan.
    """
    start = max(low - MARGIN, 0)
    stop = min(high + MARGIN + 2, length)
    missing = max(min(PATCH, length) - (stop - start), 0)
    start -= missing // 2
    stop += missing - missing // 2
    move = max(-start, 0) - max(stop - length, 0)
    return start + move, stop + move


def mcnet(scan: Scan, label: np.ndarray | None, crop: bool, part: Box) -> ResampledCase:
    """MC-Net's image (float32, z-scored) and label (uint8); `part` of the scan is kept if not
    `crop`.
    """
    spacing = scan.geometry.spacing
    size = [int(voxels * mm) for voxels, mm in zip(scan.shape, spacing, strict=True)]
    if min(size) < 1:
        raise UserError(
            f"{scan.path}: less than 1 mm of tissue along an axis; correct the spacing in its "
            "header"
        )
    # In float32 as published: ITK would round the values between whole HU to whole ones.
    hounsfield = scan.array.astype(np.float32)
    image = _at_one_mm(hounsfield, spacing, size=size, interpolator=sitk.sitkBSpline)
    image = (image.astype(np.float64).clip(LOW, HIGH) - LOW) / (HIGH - LOW)
    if label is not None:
        label = _at_one_mm(label, spacing, size=size, interpolator=sitk.sitkNearestNeighbor)
    box = _scaled_box(part, spacing, shape=size)
    if crop and label is not None:
        _check_not_empty(scan, label)
        box = _mcnet_box(label, box)
    kept = slices_of_box(*box)
    image = image[kept].astype(np.float32)
    if image.min() == image.max():
        raise UserError(_outside_window(scan))
    image = (image - image.mean()) / image.std()
    geometry = scan.geometry.stepped((1 / spacing).tolist()).cropped(box[0])
    return ResampledCase(image, label=cropped_to(label, kept), geometry=geometry, box=box)


def _at_one_mm(
    array: np.ndarray, spacing: np.ndarray, size: Sequence[int], interpolator: int
) -> np.ndarray:
    """Resample an array (x, y, z) to voxels of 1 mm."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    image.SetSpacing(spacing.tolist())
    grid = (image.GetOrigin(), (1.0, 1.0, 1.0), image.GetDirection())
    result = sitk.Resample(image, size, sitk.Transform(), interpolator, *grid, 0.0)
    return sitk.GetArrayFromImage(result).T


def _mcnet_box(label: np.ndarray, box: Box) -> Box:
    """MC-Net's crop around the label in x and y; in z that of `box`."""
    start = list(box[0])
    stop = list(box[1])
    for axis in (0, 1):
        low, high = label_range(label, axis)
        margin = MARGIN + max(PATCH - (high - low), 0) // 2
        start[axis] = max(low - margin, 0)
        stop[axis] = min(high + margin, label.shape[axis])
    return tuple(start), tuple(stop)


VARIANTS = {"coranet": coranet, "mcnet": mcnet}


def _scaled_box(part: Box, scale: np.ndarray, shape: Sequence[int]) -> Box:
    """A box of the scan in voxels of the resampled one, which has `scale` of them for each voxel
    and is of `shape`.
    """
    start, stop = part
    scaled_stop = np.minimum(np.ceil(np.array(stop) * scale), shape).astype(int)
    scaled_start = np.minimum(np.floor(np.array(start) * scale).astype(int), scaled_stop - 1)
    return tuple(scaled_start.tolist()), tuple(scaled_stop.tolist())


def _check_not_empty(scan: Scan, label: np.ndarray) -> None:
    if not label.any():
        raise UserError(
            f"{scan.path}: the label is empty after resampling; correct the label, or use --crop "
            "none"
        )


def _outside_window(scan: Scan) -> str:
    return (
        f"{scan.path}: every voxel is at or beyond one end of the window {LOW}..{HIGH} HU; "
        "check that it is a CT in HU"
    )


def _run_folder(output_root: Path | None, exp: str, labelnum: int) -> Path:
    """The folder of a run.

    The published code names it without `labelnum`. A folder with such a name is used if it has a
    checkpoint for that number of labels, a published one or that of a run by an older version.
    """
    results = output_root or REPOSITORY / "pancreas" / "result"
    published = results / exp
    for name in (f"best_ema{labelnum}_*.pth", f"best_ema_{labelnum}_*.pth"):
        if any(published.glob(f"*/{name}")):
            return published
    return results / f"{exp}_{labelnum}_labeled"


def _sampler(config: AnyConfig) -> type[FourStreamSampler]:
    """The published sampler for the percentage of labelled cases."""
    if config.experiment.labelnum == 10:
        return TenfoldFourStreamSampler
    return FourStreamSampler


BCP_LOSSES = {
    "pre_losses": (("dice", 0.5), ("ce", 0.5)),
    "losses": (("dice", 0.5), ("ce", 0.5)),
}
BCP = {**BCP_LOSSES, "seed": 2020}
DATASET = volumes(
    info=INFO,
    preparation=PancreasPreparation,
    script=("pancreas/pancreas_labelnum20_train.py",),
    published_tags=PANCREAS_TAGS,
    cases=percent_of_cases,
    sampler=_sampler,
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
    defaults={
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
    label_defaults={20: {"ema_decay": 0.99}},
    methods={
        "bcp": BCP,
        "pseudo_label": BCP,
        "abd": BCP_LOSSES,
        "sdcl": BCP_LOSSES,
        "averaged_copy_paste": BCP_LOSSES,
        "ad_mt": {"turn": 14},
    },
    stride=(16, 16, 4),
    test_defaults={"exp": "cutmix", "labelnum": 20, "model": "VNet_pancreas", "which": "both"},
    folder=_run_folder,
    best_name=lambda stage, model, labelnum: (
        f"best_ema_{labelnum}_{stage.removesuffix('_train')}.pth"
    ),
    published_pretraining="pretrain/best_ema{labelnum}_pre.pth",
    published_layout="net",
    module_prefix="always",
)
