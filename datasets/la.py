"""LA: MR of the left atrium (2018 atrial segmentation challenge), in the public preparation of
UA-MT.
"""

import csv
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dataloaders.dataset_info import DatasetInfo
from dataloaders.hdf5 import SPLITS
from dataloaders.plan import mean_and_deviation
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
from datasets.prepare.published import CroppedPreparation, cases_in_folders
from datasets.templates import two_slices, volumes
from evaluation.settings import EvaluationSettings
from scans.geometry import Geometry
from scans.reading import Scan
from scans.voxel_file import Warn
from utils.errors import UserError

INFO = DatasetInfo(
    name="LA",
    class_names=("background", "left atrium"),
    dims=3,
    file="2018LA_Seg_Training Set/{}/mri_norm2.h5",
    flat_file="{}.h5",
    list_suffix="la",
    train_list="train.list",
    test_list="test.list",
    axes="xyz",
    planes=((2, 43), (1, None)),
)
STORED = (0, 1, 2)  # x, y, z
COMPRESSION = {"compression": "gzip", "compression_opts": 4}
SPACING = 0.625  # mm along every axis of every scan
HEADER_SPACING = 1.0  # mm; what the headers of some scans have instead
SEED = 1337
# The published patch. The crop is widened so that one fits without the margins.
PATCH = 112


@dataclass(frozen=True)
class LAPreparation(CroppedPreparation):
    """LA as UA-MT prepared it: z-scored over the whole scan, then cropped around the label in x and
    y.

    Reads `<id>/lgemri.nrrd` and `<id>/laendo.nrrd` anywhere below the source; the label is where
    laendo is 255. The z-score is computed in float64 over the whole scan and stored as float32,
    axes x, y, z. All slices are kept. In x and y the crop keeps 10 to 19 voxels below the label and
    9 to 18 above it, more where the label is smaller than a patch. The public margins were drawn
    without a seed; data_split/LA/crop_margins.csv lists them for the 100 public scans. For any
    other scan they are drawn from its name, so they are reproducible.
    """

    info = INFO
    raw_values = (0, 255)

    @property
    def image_steps(self) -> str:
        """What turns a scan into the input of a network, in words."""
        return (
            "(v - mean) / standard deviation over the whole scan; not resampled; "
            "trained on crops around the label"
        )

    def find(self, source: Path) -> list[RawCase]:
        """Find the folder of each scan."""
        return cases_in_folders(source, "lgemri", label="laendo", endings=r"\..*")

    def prepare(self, case: RawCase, warn: Warn) -> Iterator[Output]:
        """Yield the volume."""
        self.check_label_exists(case)
        scan = case.read_images(warn)[0]
        start, stop = self.chosen_box(scan)
        label = None
        if case.label is not None:
            label = (self.read_label(case.label, scan, warn=warn) == 255).astype(np.uint8)
        if self.crop == "published":
            followed = label_to_follow(case, label)
            start, stop = crop_box(followed, margins(case.name, followed))
        box = slices_of_box(start, stop)
        # after the label is read, whose header is compared with that of the image
        geometry = stored_geometry(case, scan, warn=warn)
        attributes = grid_attributes(geometry.cropped(start), STORED, file_axes="xyz")
        attributes |= crop_attributes(start, stop)
        attributes |= source_attributes(replace(scan, geometry=geometry))
        yield Output(
            self.last_file(case),
            image=zscored(scan)[box],
            label=cropped_to(label, box),
            attributes=attributes,
            options=COMPRESSION,
        )


def stored_geometry(case: RawCase, scan: Scan, warn: Warn) -> Geometry:
    """The grid of a scan, with the true spacing where the header has 1 mm along every axis.

    All of LA's scans have 0.625 mm. A prediction keeps the header's spacing and so overlays its
    scan. `warn` is called with a line that names the scan.
    """
    geometry = scan.geometry
    if not np.allclose(geometry.spacing, HEADER_SPACING, rtol=0, atol=1e-6):
        return geometry
    wrong = f"{scan.path}: its header has a spacing of 1 mm, LA's scans have {SPACING} mm"
    if case.part == "predict":
        warn(f"{wrong}; volumes in ml follow the header, correct it if it is wrong")
        return geometry
    warn(f"{wrong}, which is stored instead")
    return replace(geometry, spacing=np.full(3, SPACING))


def margins(name: str, label: np.ndarray) -> dict[int, tuple[int, int]]:
    """Voxels that the crop keeps below and above the label's box, for the axes x (0) and y (1)."""
    with open(SPLITS / INFO.name / "crop_margins.csv", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["case"] == name:
                return {
                    axis: (int(row[f"below_{letter}"]), int(row[f"above_{letter}"]))
                    for axis, letter in enumerate("xy")
                }
    rng = np.random.default_rng([SEED, zlib.crc32(name.encode())])
    drawn = {}
    for axis in (0, 1):
        low, high = label_range(label, axis)
        widened = max(PATCH - (high - low), 0) // 2
        below, end = rng.integers(10, 20, 2)
        drawn[axis] = (int(widened + below), int(widened + end) - 1)
    return drawn


def crop_box(label: np.ndarray, around: dict[int, tuple[int, int]]) -> Box:
    """The crop with the margins `around` the label (below and above by axis); it ends where the
    scan does.
    """
    start = [0, 0, 0]
    stop = list(label.shape)
    for axis, (below, above) in around.items():
        low, high = label_range(label, axis)
        start[axis] = max(low - below, 0)
        stop[axis] = min(high + above + 1, label.shape[axis])
    return tuple(start), tuple(stop)


def zscored(scan: Scan) -> np.ndarray:
    """(v - mean) / standard deviation, over all voxels and in float64, as float32.

    Raises UserError for a constant image, and for intensities that have no z-score.
    """
    values = scan.array.astype(np.float64)
    try:
        mean, deviation = mean_and_deviation(values)
    except ArithmeticError as error:
        raise UserError(f"{scan.path}: {error}; copy or download it again") from None
    if deviation == 0:
        raise UserError(
            f"{scan.path}: the image is constant (every voxel is {values.flat[0]:g}); copy or "
            "download it again"
        )
    return ((values - mean) / deviation).astype(np.float32)


@dataclass(frozen=True)
class LATestSettings(EvaluationSettings):
    """What to test. Network, patch size and edge-guided module come from the checkpoint, or for a
    published checkpoint from its weights."""

    nms: bool = True
    """Keep only the largest component of a prediction, as the published test does (published flag;
    0 or 1 may follow).
    """

    @property
    def filters_components(self) -> bool:
        """Whether only the largest component of a prediction is kept."""
        return self.nms


BCP = {"pre_weight_decay": 1e-4, "lr_drop_every": 2_500}
DATASET = volumes(
    info=INFO,
    preparation=LAPreparation,
    script=("code/LA_labelnum4_train.py",),
    defaults={
        "model": "VNet",
        "patch_size": (112, 112, 80),
        "batch_size": 8,
        "labeled_bs": 4,
        "pre_iterations": 2_000,
        "max_iterations": 15_000,
        "base_lr": 0.01,
        "lr_schedule": "step",
        "lr_drop_every": 5_000,
        "weight_decay": 1e-4,
        "pre_weight_decay": 1e-3,
        "box_end": 1 / 2,
        "static_start": 1000,
        "static_step": 500,
        "static_range": (500, 2000),
        "val_stride": (18, 18, 4),
        "select": "test",
    },
    label_defaults={4: {"ema_decay": 0.99}, 8: {"ema_decay": 0.99}},
    methods={"bcp": BCP, "pseudo_label": BCP},
    rounded_best=("edge_guided", "bcp"),
    connectivity=26,
    test_settings=LATestSettings,
    commands="LA",
    test_defaults={"labelnum": 4, "model": "VNet", "which": "both"},
    module_prefix="edge_guided",  # BCP's own LA code has no DataParallel
)
TWO_SLICES = two_slices(info=INFO, patch_size=(112, 112, 80), preparation=LAPreparation)
