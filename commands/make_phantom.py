"""Synthetic data in the layout of a public data set, or as raw scans in nnU-Net's layout."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dataloaders.dataset_info import DatasetInfo
from dataloaders.phantom.raw_scans import write_raw_phantom
from dataloaders.phantom.write import write_phantom
from datasets.registry import find_dataset
from utils.cli import parse
from utils.messages import message

# the published planes of the registration need scans of the published size
REGISTER = "code/CoGRNet_register.py --dataset {dataset} --root_path {root} --planes middle middle"
NEXT = {
    "ACDC": "code/ACDC_labelnum3_train.py --root_path {root}",
    "LA": "code/LA_labelnum4_train.py --root_path {root}",
    "Pancreas": "pancreas/pancreas_labelnum20_train.py --root_path {root}",
}
RAW_VAL = 4
RAW_LABELLED = 3


@dataclass(frozen=True)
class PhantomSettings:
    """Which population to draw, and where to write it."""

    root: Path
    """Folder to write to. It is created if it does not exist."""
    dataset: Literal["ACDC", "LA", "Pancreas", "KiTS19", "LiTS"] = "ACDC"
    """Data set whose anatomy and layout are used."""
    raw: bool = False
    """ACDC and LA: write raw scans (NIfTI) in nnU-Net's layout instead, most of them without
    labels, as own data are."""
    train: int = 20
    """Number of training patients. Those of ACDC are written as slices."""
    val: int | None = None
    """Number of validation patients, written as volumes; only ACDC and raw scans (default: 4)."""
    test: int = 6
    """Number of test patients, written as volumes."""
    labelled: int | None = None
    """Number of labelled training patients; only Pancreas (default: 12 of 62) and raw scans
    (default: 3)."""
    size: tuple[int, ...] | None = None
    """ACDC: mean side of an image in pixels (128). Others: mean voxels along the array's three axes
    (LA 96 96 56, Pancreas 96 96 96, KiTS19 and LiTS 32 96 96)."""
    seed: int = 1337
    """Seed of the population."""


def make_phantom(argv: Sequence[str] | None = None, description: str = "") -> None:
    """Write the phantom and report the command that comes next."""
    settings = parse(PhantomSettings, argv, description=description)
    info = find_dataset(settings.dataset).info
    if settings.raw:
        written, command = _write_raw(info, settings)
    else:
        written = write_phantom(
            info,
            settings.root,
            train=settings.train,
            test=settings.test,
            val=settings.val,
            labelled=settings.labelled,
            size=settings.size,
            seed=settings.seed,
        )
        command = NEXT.get(settings.dataset, REGISTER)
        command = command.format(dataset=settings.dataset, root=settings.root)
    message(f"{written}; next: python {command}")


def _write_raw(info: DatasetInfo, settings: PhantomSettings) -> tuple[str, str]:
    """Write raw scans; return a line about them and the command that prepares them."""
    val = settings.val
    if val is None:
        val = RAW_VAL
    labelled = settings.labelled
    if labelled is None:
        labelled = RAW_LABELLED
    root = settings.root
    write_raw_phantom(
        info,
        root,
        train=settings.train,
        val=val,
        test=settings.test,
        labelled=labelled,
        size=settings.size,
        seed=settings.seed,
    )
    written = (
        f"wrote the raw scans of {labelled} labelled, {settings.train - labelled} unlabelled, "
        f"{val} validation and {settings.test} test patients below {root}"
    )
    prepare = f"code/prepare_data.py --dataset own --source {root} --root_path {root}_prepared"
    return written, prepare
