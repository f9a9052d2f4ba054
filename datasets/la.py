"""LA: MR of the left atrium (2018 atrial segmentation challenge), in the public preparation of UA-MT.

Preparation: LA as UA-MT prepared it: z-scored over the whole scan, then cropped around the label in x and y.
"""

import csv
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dataloaders.dataset_info import DatasetInfo
from dataloaders.hdf5 import SPLITS
from datasets.prepare.crop import Box, box_of, checked_box, label_range, needs_label, not_empty
from datasets.prepare.lists import write_lists
from datasets.prepare.prepared_files import (
    Output,
    RawCase,
    crop_attributes,
    grid_attributes,
    source_attributes,
)
from datasets.templates import two_slices, volumes
from scans.geometry import lay_onto
from scans.reading import Scan, read_label
from utils.errors import UserError
from utils.files import files_below

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


@dataclass(frozen=True)
class TestOptions:
    """Settings of the test on LA."""

    nms: bool = True
    """Keep only the largest component of a prediction, as the published test does (published flag; 0 or 1 may follow)."""


DATASET = volumes(
    info=INFO,
    numbers={
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
    methods={"bcp": {"pre_weight_decay": 1e-4, "lr_drop_every": 2_500}},
    rounded_best=("edge_guided", "bcp"),
    connectivity=26,
    test_options=(TestOptions,),
    commands="LA",
    test_numbers={"labelnum": 4, "model": "VNet", "which": "both"},
    module_prefix="edge_guided",  # BCP's own LA code has no DataParallel
)
TWO_SLICES = two_slices(info=INFO, patch_size=(112, 112, 80))


STORED = (0, 1, 2)  # x, y, z
GZIP = {"compression": "gzip", "compression_opts": 4}
SEED = 1337
PATCH = 112  # the published patch: the crop is widened so that one fits, the margins aside


@dataclass(frozen=True)
class LAPreparation:
    """`<id>/lgemri.nrrd` and `<id>/laendo.nrrd` anywhere below the source; the label is where laendo is 255.

    z-score in float64 over the whole scan, stored as float32, x, y, z. All slices are kept; in x and y the crop reaches from the label's
    first voxel less a margin of 10 to 19 to its last voxel and such a margin, the end exclusive, so that one voxel less is left above it.
    The public margins were drawn without a seed; what they left around the label is for each of the 100 public scans in
    data_split/LA/crop_margins.csv. Other scans draw theirs, the same ones for the same name.
    """

    crop: str = "published"
    box: Box | None = None
    info = INFO

    @property
    def settings(self) -> dict:
        return {"dataset": INFO.name, "version": 1, "crop": self.crop}

    def find(self, source: Path) -> list[RawCase]:
        cases: dict[str, RawCase] = {}
        for path in (path for path in files_below(source) if path.name.startswith("lgemri.")):
            name, label = path.parent.name, path.with_name(path.name.replace("lgemri", "laendo"))
            if name in cases:
                raise UserError(
                    f"{path}: scan {name} lies in {cases[name].images[0].parent} too; take one of them away"
                )
            cases[name] = RawCase(name, (path,), label if label.is_file() else None)
        return list(cases.values())

    def listed(self, line: str) -> str:
        return line

    def mark(self, case: RawCase) -> str:
        return INFO.file.format(case.name)

    def prepare(self, case: RawCase, warn) -> Iterator[Output]:
        needs_label(case, self.crop)
        scan, label = case.read_images(warn)[0], None
        start, stop = checked_box(self.box, str(scan.path), scan.shape)
        if case.label is not None:
            truth = read_label(case.label, (0, 255), "laendo as downloaded", warn)
            label, said = lay_onto(
                str(case.label), truth.array, truth.geometry, scan.shape, scan.geometry
            )
            warn(said)
            label = (label == 255).astype(np.uint8)
        if self.crop == "published":
            start, stop = crop_box(not_empty(case, label), margins(case.name, label))
        box = box_of(start, stop)
        geometry = scan.geometry.cropped(start)
        attributes = {
            **grid_attributes(geometry, STORED, "xyz"),
            **crop_attributes(start, stop),
            **source_attributes(scan),
        }
        yield Output(
            self.mark(case),
            zscored(scan)[box],
            None if label is None else np.ascontiguousarray(label[box]),
            attributes,
            GZIP,
        )

    def write_lists(self, root: Path) -> list[str]:
        return write_lists(root, INFO.name, INFO.file.format)


def margins(name: str, label: np.ndarray) -> dict[int, tuple[int, int]]:
    """Voxels that the crop leaves below and above the label's box, for the axes x (0) and y (1)."""
    with open(SPLITS / INFO.name / "crop_margins.csv", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["case"] == name:
                return {
                    axis: (int(row[f"below_{letter}"]), int(row[f"above_{letter}"]))
                    for axis, letter in enumerate("xy")
                }
    rng, found = np.random.default_rng([SEED, zlib.crc32(name.encode())]), {}
    for axis in (0, 1):
        low, high = label_range(label, axis)
        widened = max(PATCH - (high - low), 0) // 2
        below, end = rng.integers(10, 20, 2)
        found[axis] = int(widened + below), int(widened + end) - 1
    return found


def crop_box(
    label: np.ndarray, around: dict[int, tuple[int, int]]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """First voxel and the one after the last of the crop, which ends where the scan does."""
    start, stop = [0, 0, 0], list(label.shape)
    for axis, (below, above) in around.items():
        low, high = label_range(label, axis)
        start[axis], stop[axis] = max(low - below, 0), min(high + above + 1, label.shape[axis])
    return tuple(start), tuple(stop)


def zscored(scan: Scan) -> np.ndarray:
    """(v - mean) / standard deviation, over all voxels and in float64, as float32; UserError for a constant image."""
    values = scan.array.astype(np.float64)
    deviation = values.std()
    if deviation == 0:
        raise UserError(
            f"{scan.path}: every voxel is {values.flat[0]:g}, there is nothing to see; copy or download it again"
        )
    return ((values - values.mean()) / deviation).astype(np.float32)
