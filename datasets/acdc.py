"""ACDC: cine MR of the heart, short-axis slices, three structures (Bernard et al., TMI 2018), in
the public preparation of BCP.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from dataloaders.dataset_info import DatasetInfo
from datasets.prepare.lists import published_lists
from datasets.prepare.prepared_files import (
    GZIP,
    Output,
    RawCase,
    grid_attributes,
    slice_outputs,
    source_attributes,
)
from datasets.prepare.published import PublishedPreparation, add_file, existing
from datasets.templates import slices
from scans.voxel_file import Warn
from utils.errors import UserError
from utils.files import files_below

INFO = DatasetInfo(
    name="ACDC",
    class_names=("background", "right ventricle", "myocardium", "left ventricle"),
    dims=2,
    file="data/{}.h5",
    slice_file="data/slices/{}.h5",
    train_list="train_slices.list",
    test_list="test.list",
)
FRAME = re.compile(r"(patient\d+)_frame(\d+)\.nii(\.gz)?")
STORED = (2, 1, 0)  # slices, y, x


@dataclass(frozen=True)
class ACDCPreparation(PublishedPreparation):
    """ACDC as SSL4MIS prepared it: whole volumes, and the slices of the training patients.

    Reads `patientXXX_frameYY.nii.gz` with `_gt` anywhere below the source. The smaller frame number
    becomes frame01, the other frame02. The image is scaled to 0..1 over its volume in float64, then
    stored as float32; the order of the axes is slices, y, x. Slices are numbered from 1. Nothing is
    cropped, so a scan without label is prepared as well.
    """

    info = INFO

    @property
    def image_steps(self) -> str:
        """What turns a scan into the input of a network, in words."""
        return "(v - min) / (max - min) over the volume; not resampled"

    def find(self, source: Path) -> list[RawCase]:
        """Find the two frames of each patient."""
        patients: dict[str, dict[int, Path]] = {}
        for path in files_below(source):
            name = FRAME.fullmatch(path.name)
            if name is not None:
                add_file(patients.setdefault(name[1], {}), int(name[2]), path)
        training = set(published_lists(INFO.name)["train.list"])
        cases = []
        for patient, paths in patients.items():
            fault = ""
            if len(paths) != 2:
                # a frame whose partner is missing could be either one: its name would be a guess
                fault = (
                    f"{patient} has {len(paths)} frames below {source}, expected 2 "
                    "(end of diastole and of systole); complete it"
                )
            for number, frame in enumerate(sorted(paths), 1):
                case = f"{patient}_frame{number:02d}"
                path = paths[frame]
                label = existing(path.with_name(path.name.replace(".nii", "_gt.nii")))
                part = "train" if case in training else ""
                cases.append(RawCase(case, images=(path,), label=label, part=part, fault=fault))
        return cases

    def case_of_line(self, line: str) -> str:
        """The name of the volume that a slice or volume of a list belongs to."""
        return line.split("_slice_")[0]

    def file_of_line(self, line: str) -> str:
        """The file of a slice or volume of a list."""
        if "_slice_" in line:
            return f"data/slices/{line}.h5"
        return INFO.file.format(line)

    def has_slices(self, case: RawCase) -> bool:
        """Whether it is a case of a training patient."""
        return case.part == "train"

    def prepare(self, case: RawCase, warn: Warn) -> Iterator[Output]:
        """Yield the slices of a training patient, then the volume."""
        scan = case.read_images(warn)[0]
        label = None
        if case.label is not None:
            label = self.read_label(case.label, scan, warn=warn)
            label = np.ascontiguousarray(label.transpose(STORED))
        elif case.part != "predict":
            warn(f"{case.images[0]}: has no label next to it, prepared without one")
        image = unit_range(scan.path, scan.array.transpose(STORED))
        grid = grid_attributes(scan.geometry, STORED, file_axes="zyx") | source_attributes(scan)
        if self.has_slices(case):
            yield from slice_outputs(
                image,
                label,
                file_of=partial("data/slices/{}_slice_{}.h5".format, case.name),
                spacing_mm=grid["spacing_mm"],
            )
        yield Output(self.last_file(case), image=image, label=label, attributes=grid, options=GZIP)

    def prepare_picture(self, path: Path, image: np.ndarray) -> np.ndarray:
        """Scale a picture to 0..1."""
        return unit_range(path, image)


def unit_range(path: Path, array: np.ndarray) -> np.ndarray:
    """(v - min) / (max - min) in float64, as float32.

    Raises UserError for a constant image, which `path` names.
    """
    values = array.astype(np.float64)
    low = values.min()
    high = values.max()
    if low == high:
        raise UserError(
            f"{path}: the image is constant (every voxel is {low:g}); copy or download it again"
        )
    return ((values - low) / (high - low)).astype(np.float32)


DATASET = slices(
    info=INFO,
    preparation=ACDCPreparation,
    script=("code/ACDC_labelnum3_train.py",),
    defaults={
        "model": "unet",
        "patch_size": (256, 256),
        "batch_size": 24,
        "labeled_bs": 12,
        "pre_iterations": 10_000,
        "max_iterations": 30_000,
        "base_lr": 0.01,
        "weight_decay": 1e-4,
        "pre_weight_decay": 1e-4,
        "box_end": 1 / 3,
        "static_start": 1000,
        "static_step": 500,
        "static_range": (500, 2000),
        "select": "val",
    },
    label_defaults={3: {"ema_decay": 0.89}, 7: {"ema_decay": 0.95}},
    methods={
        "bcp": {"dice_background": "masked"},
        # docs/results/recipe.md
        "averaged_copy_paste": {"dice_background": "masked", "base_lr": 0.05},
    },
    commands="ACDC",
    test_defaults={"model": "unet"},
)
