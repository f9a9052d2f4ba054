"""Synthetic data in the layout of a public data set, or as raw scans in nnU-Net's layout."""

from dataclasses import dataclass
from pathlib import Path

from commands.next_command import next_command, next_preparation
from dataloaders.dataset_info import DatasetInfo
from dataloaders.phantom.raw_scans import write_raw_phantom
from dataloaders.phantom.write import write_phantom
from datasets.registry import all_datasets
from datasets.resolve import COGRNET_COMMANDS
from utils.messages import message
from utils.registry import find

# flags of a training that takes a few minutes on two cores, by the dimensions of the images
SHORT = {
    2: "--patch_size 80 80 --batch_size 8 --labeled_bs 4 --pre_iterations 200 "
    "--max_iterations 600 --val_every 100",
    3: "--patch_size 48 48 32 --batch_size 4 --labeled_bs 2 --pre_iterations 60 "
    "--max_iterations 40 --val_every 20 --val_stride 48 48 32",
}
# the published planes of the registration need scans of the published size
REGISTRATION = "--planes middle middle"
RAW_VAL = 4
RAW_LABELLED = 3


@dataclass(frozen=True)
class PhantomSettings:
    """Which population to draw, and where to write it."""

    root: Path
    """Folder to write to. It is created if it does not exist."""
    dataset: str = "ACDC"
    """Data set whose anatomy and layout are used: ACDC, LA, Pancreas, KiTS19 or LiTS."""
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


def run(settings: PhantomSettings) -> Path:
    """Write the phantom, report the command that comes next, and return the phantom's folder."""
    dataset = find(all_datasets(), settings.dataset, flag="--dataset")
    info = dataset.info
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
        flags = SHORT[info.dims]
        if dataset.commands == COGRNET_COMMANDS:
            flags = REGISTRATION
        command = next_command(*dataset.script, "--root_path", settings.root, *flags.split())
    message(f"{written}; {command}")
    return settings.root


def _write_raw(info: DatasetInfo, settings: PhantomSettings) -> tuple[str, str]:
    """Write raw scans; return a line about them and the next command, which prepares them."""
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
    return written, next_preparation(root)
