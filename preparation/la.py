"""LA as UA-MT prepared it: z-scored over the whole scan, then cropped around the label in x and y."""

import csv
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dataloaders.hdf5 import SPLITS
from preparation.crop import Box, box_of, checked_box, label_range, needs_label, not_empty
from preparation.files import Output, RawCase, crop_attributes, grid_attributes, source_attributes
from preparation.geometry import lay_onto
from preparation.lists import write_lists
from preparation.scans import Scan, read_label
from recipes.la import PAGE
from utils.errors import UserError
from utils.files import files_below

LA = PAGE.facts
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
    facts = LA

    @property
    def settings(self) -> dict:
        return {"dataset": LA.name, "version": 1, "crop": self.crop}

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
        return LA.file.format(case.name)

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
        return write_lists(root, LA.name, LA.file.format)


def margins(name: str, label: np.ndarray) -> dict[int, tuple[int, int]]:
    """Voxels that the crop leaves below and above the label's box, for the axes x (0) and y (1)."""
    with open(SPLITS / LA.name / "crop_margins.csv", encoding="utf-8", newline="") as file:
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
