"""Whole cases: volumes to validate and test on, and what training volumes are cut from."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from dataloaders.contents import Contents
from dataloaders.facts import DatasetFacts
from dataloaders.hdf5 import check_root, read_attribute, read_case
from utils.case import Case
from utils.errors import UserError
from utils.messages import message
from utils.progress import progress


def in_memory(
    facts: DatasetFacts, image: np.ndarray, label: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """A stored volume (C, ...) and label as the methods see them: axes x, y, z for 3-D data sets, z-scored where the loader does it
    (every channel for itself), task labels."""
    if facts.zscore:
        image = np.stack([(channel - channel.mean()) / (channel.std() or 1) for channel in image])
    return turned(facts, image), None if label is None else turned(facts, facts.task_label(label))


def turned(facts: DatasetFacts, volume: np.ndarray) -> np.ndarray:
    """A stored volume (..., three axes) with them as they are in memory, contiguous."""
    return np.ascontiguousarray(volume.swapaxes(-1, -3) if facts.swapped else volume)


def read_volume(facts: DatasetFacts, path: Path, name: str, label: bool = True) -> Case:
    """One case with its spacing and affine where the file has them; without `label` that data set is not opened."""
    image, truth, attributes = read_case(path, facts, 3, label)
    spacing = read_attribute(path, attributes, "spacing_mm", (3,))
    if spacing is not None and not (spacing > 0).all():
        raise UserError(
            f"{path}: spacing_mm is {spacing}, expected three positive numbers; prepare the case again"
        )
    affine = read_attribute(path, attributes, "affine", (4, 4))
    image, truth = in_memory(facts, image, truth)
    spacing = None if spacing is None else tuple(spacing[:: -1 if facts.swapped else 1].tolist())
    return Case(name, image, truth, spacing, affine)


def read_cases(
    facts: DatasetFacts, root: Path, split: str, say: Callable[[str], None] = message
) -> list[Case]:
    """The volumes of the split `val` or `test`, in list order; `say` is told what is strange about them."""
    check_root(root, facts.name)
    names = facts.read_list(root, facts.list_name(split))
    contents, cases = Contents(f"{split} volumes", True, say), []
    with progress(
        names, desc=f"reading {split} volumes", unit="file", leave=False, delay=0.5
    ) as bar:
        for name in bar:
            path = facts.path(root, name)
            case = read_volume(facts, path, name)
            contents.look(path, case.image, [case.label])
            cases.append(case)
    contents.tell()
    return cases
