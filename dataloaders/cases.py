"""Whole cases: volumes to validate and test on, and what training volumes are cut from."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dataloaders.contents import Contents
from dataloaders.dataset_info import DatasetInfo
from dataloaders.hdf5 import check_root, read_attribute, read_case
from utils.case import Case
from utils.errors import UserError
from utils.messages import message
from utils.progress import progress


@dataclass(frozen=True)
class Volume:
    """A volume as `Case` has it, whose label may not have been read."""

    image: np.ndarray
    label: np.ndarray | None
    spacing_mm: tuple[float, ...] | None
    affine: np.ndarray | None


def in_memory(
    info: DatasetInfo, image: np.ndarray, label: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Convert a stored volume (C, ...) and its label to what the methods see.

    Axes are x, y, z for 3-D data sets, labels are task labels, and images are z-scored if the data
    set requires it, each channel by its own mean and standard deviation.
    """
    if info.zscore:
        image = np.stack([(channel - channel.mean()) / (channel.std() or 1) for channel in image])
    image = turned(info, image)
    if label is None:
        return image, None
    return image, turned(info, info.task_label(label))


def turned(info: DatasetInfo, volume: np.ndarray) -> np.ndarray:
    """A stored volume (..., three axes) with its last three axes in the order in memory,
    contiguous.
    """
    if info.swapped:
        volume = volume.swapaxes(-1, -3)
    return np.ascontiguousarray(volume)


def read_volume(info: DatasetInfo, path: Path, name: str) -> Case:
    """Read a case with its label, and its spacing and affine where the file has them."""
    volume = read_stored(info, path, label=True)
    assert volume.label is not None  # it was asked for
    return Case(name, volume.image, volume.label, volume.spacing_mm, volume.affine)


def read_stored(info: DatasetInfo, path: Path, label: bool) -> Volume:
    """Read a volume of one file; without `label` the data set of its label is not opened.

    Raises UserError where the file is damaged or its spacing is not three positive numbers.
    """
    image, truth, attributes = read_case(path, info, dims=3, label=label)
    spacing = read_attribute(path, attributes, "spacing_mm", (3,))
    if spacing is not None and not (spacing > 0).all():
        raise UserError(
            f"{path}: spacing_mm is {spacing}, expected three positive numbers; prepare the case "
            "again"
        )
    affine = read_attribute(path, attributes, "affine", (4, 4))
    image, truth = in_memory(info, image, truth)
    return Volume(image, truth, _in_axis_order(info, spacing), affine)


def _in_axis_order(info: DatasetInfo, spacing: np.ndarray | None) -> tuple[float, ...] | None:
    """A stored spacing in the order of the axes in memory."""
    if spacing is None:
        return None
    if info.swapped:
        spacing = np.flip(spacing)
    return tuple(spacing.tolist())


def read_cases(
    info: DatasetInfo, root: Path, split: str, say: Callable[[str], None] = message
) -> list[Case]:
    """Read the volumes of the split `val` or `test`, in list order; `say` gets the warnings about
    their contents.
    """
    check_root(root, info.name)
    names = info.read_list(root, info.list_name(split))
    contents = Contents(f"{split} volumes", whole=True, say=say)
    cases: list[Case] = []
    with progress(
        names, desc=f"reading {split} volumes", unit="file", leave=False, delay=0.5
    ) as bar:
        for name in bar:
            path = info.path(root, name)
            case = read_volume(info, path, name)
            contents.look(path, case.image, [case.label])
            cases.append(case)
    contents.report()
    return cases
