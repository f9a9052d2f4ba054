"""ACDC: cine MR of the heart, short-axis slices, three structures (Bernard et al., TMI 2018), in the public preparation of BCP.

Preparation: ACDC as SSL4MIS prepared it: whole volumes, and the slices of the training patients.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dataloaders.dataset_info import DatasetInfo
from datasets.prepare.lists import published_lists, write_lists
from datasets.prepare.prepared_files import Output, RawCase, grid_attributes, source_attributes
from datasets.templates import slices
from scans.geometry import lay_onto
from scans.reading import read_label
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
DATASET = slices(
    info=INFO,
    numbers={
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
    methods={
        "bcp": {"dice_background": "masked"},
        "averaged_copy_paste": {
            "dice_background": "masked",
            "base_lr": 0.05,
        },  # docs/results/recipe.md
    },
    commands="ACDC",
    test_numbers={"model": "unet"},
)


FRAME = re.compile(r"(patient\d+)_frame(\d+)\.nii(\.gz)?")
STORED = (2, 1, 0)  # slices, y, x
GZIP = {"compression": "gzip"}


@dataclass(frozen=True)
class ACDCPreparation:
    """`patientXXX_frameYY.nii.gz` with `_gt` anywhere below the source; the smaller frame number becomes frame01, the other frame02.

    The image is scaled to 0..1 over its volume in float64, then stored as float32; the order of the axes is slices, y, x. Slices are
    numbered from 1. Nothing is cropped, so a scan without label is prepared as well.
    """

    info = INFO

    @property
    def settings(self) -> dict:
        return {"dataset": INFO.name, "version": 1}

    def find(self, source: Path) -> list[RawCase]:
        frames: dict[str, dict[int, Path]] = {}
        for path in files_below(source):
            if found := FRAME.fullmatch(path.name):
                mine = frames.setdefault(found[1], {})
                if (other := mine.setdefault(int(found[2]), path)) != path:
                    raise UserError(
                        f"{path}: the same frame lies in {other.parent} too; take one of them away"
                    )
        training = set(published_lists(INFO.name)["train.list"])
        cases = []
        for patient, paths in frames.items():
            for number, frame in enumerate(sorted(paths), 1):
                name, path = f"{patient}_frame{number:02d}", paths[frame]
                label = path.with_name(path.name.replace(".nii", "_gt.nii"))
                # a frame whose partner is missing could be either one: its name would be a guess
                fault = f"{patient} has {len(paths)} frames below {source}, expected 2 (end of diastole and of systole); complete it"
                part = "train" if name in training else ""
                cases.append(
                    RawCase(
                        name,
                        (path,),
                        label if label.is_file() else None,
                        part,
                        fault if len(paths) != 2 else "",
                    )
                )
        return cases

    def listed(self, line: str) -> str:
        return line.split("_slice_")[0]

    def mark(self, case: RawCase) -> str:
        return INFO.file.format(case.name)

    def prepare(self, case: RawCase, warn) -> Iterator[Output]:
        scan, label = case.read_images(warn)[0], None
        if case.label is None:
            warn(
                f"{case.images[0]}: no label beside it, prepared without one"
                if case.part != "predict"
                else None
            )
        else:
            truth = read_label(case.label, (0, 1, 2, 3), "as downloaded", warn)
            label, said = lay_onto(
                str(case.label), truth.array, truth.geometry, scan.shape, scan.geometry
            )
            warn(said)
            label = np.ascontiguousarray(label.transpose(STORED))
        image = unit_range(scan.path, scan.array.transpose(STORED))
        grid = {**grid_attributes(scan.geometry, STORED, "zyx"), **source_attributes(scan)}
        if case.part == "train":
            for k, plane in enumerate(image):
                within = {"spacing_mm": grid["spacing_mm"][1:], "slice": k}
                yield Output(
                    slice_file(case.name, k + 1),
                    plane,
                    None if label is None else label[k],
                    within,
                    GZIP,
                )
        yield Output(self.mark(case), image, label, grid, GZIP)

    def write_lists(self, root: Path) -> list[str]:
        return write_lists(
            root,
            INFO.name,
            lambda line: f"data/slices/{line}.h5" if "_slice_" in line else INFO.file.format(line),
        )


def slice_file(case: str, number: int) -> str:
    return f"data/slices/{case}_slice_{number}.h5"


def unit_range(path: Path, array: np.ndarray) -> np.ndarray:
    """(v - min) / (max - min) in float64, as float32; UserError for a constant image."""
    values = array.astype(np.float64)
    low, high = values.min(), values.max()
    if low == high:
        raise UserError(
            f"{path}: every voxel is {low:g}, there is nothing to see; copy or download it again"
        )
    return ((values - low) / (high - low)).astype(np.float32)
