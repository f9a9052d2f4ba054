"""Synthetic data in the layout of a public data set, or as raw scans in nnU-Net's."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dataloaders.phantom.raw_scans import write_raw_phantom
from dataloaders.phantom.write import write_phantom
from datasets.registry import find_dataset
from utils.cli import parse
from utils.messages import message

# the published planes of the registration need scans of the published size
REGISTER = "code/CoGRNet_register.py --dataset {} --root_path {} --planes middle middle"
NEXT = {
    "ACDC": "code/ACDC_labelnum3_train.py --root_path {1}",
    "LA": "code/LA_labelnum4_train.py --root_path {1}",
    "Pancreas": "pancreas/pancreas_labelnum20_train.py --root_path {1}",
}


@dataclass(frozen=True)
class PhantomSettings:
    root: Path
    """Folder to write into; made if missing."""
    dataset: Literal["ACDC", "LA", "Pancreas", "KiTS19", "LiTS"] = "ACDC"
    """Whose layout to write."""
    raw: bool = False
    """Write raw scans (NIfTI) in nnU-Net's layout instead, most of them without labels, as one's own data come; of ACDC and LA."""
    train: int = 20
    """Training patients; those of ACDC are written as slices."""
    val: int | None = None
    """Validation patients, written as volumes; ACDC and raw scans alone, where 4 are the default."""
    test: int = 6
    """Test patients, written as volumes."""
    labelled: int | None = None
    """How many of the training patients are labelled; Pancreas, where 12 of 62 are the default, and raw scans, where 3 are."""
    size: tuple[int, ...] | None = None
    """ACDC: mean side of an image in pixels (128). Others: mean voxels along the array's three axes (LA 96 96 56,
    Pancreas 96 96 96, KiTS19 and LiTS 32 96 96)."""
    seed: int = 1337
    """Which population to draw."""


def make_phantom(argv: Sequence[str] | None = None, description: str = "") -> None:
    """Write the phantom and name the command that comes next."""
    flags = parse(PhantomSettings, argv, description=description)
    info = find_dataset(flags.dataset).info
    if flags.raw:
        val, labelled = (
            default if given is None else given
            for given, default in ((flags.val, 4), (flags.labelled, 3))
        )
        write_raw_phantom(
            info, flags.root, flags.train, val, flags.test, labelled, flags.size, flags.seed
        )
        drawn = f"{labelled} labelled, {flags.train - labelled} unlabelled, {val} validation and {flags.test} test patients"
        prepare = f"code/prepare_data.py --dataset own --source {flags.root} --root_path {flags.root}_prepared"
        message(f"wrote the raw scans of {drawn} below {flags.root}; next: python {prepare}")
        return
    wrote = write_phantom(
        info,
        flags.root,
        flags.train,
        flags.test,
        flags.val,
        flags.labelled,
        flags.size,
        flags.seed,
    )
    message(
        f"{wrote}; next: python {NEXT.get(flags.dataset, REGISTER).format(flags.dataset, flags.root)}"
    )
