"""Cross-validation: the training list of a data set divided into folds by patient.

Each fold is a folder that every command accepts as --root_path. It holds links to the data, and
lists of its own: the patients of the fold are its test list, all others its training list. The data
set's validation list is the same in every fold, and its test list is not used.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from dataloaders.dataset_info import DatasetInfo
from dataloaders.hdf5 import check_root, list_line
from dataloaders.splits import case_of
from datasets.base import DatasetSpec, data_root
from reporting.groups import patient
from utils.errors import UserError, writing
from utils.files import replacing
from utils.json_file import read_json
from utils.lock import HOLDER, NAME

FILE = "splits_final.json"
FOLDER = "folds"
SEED = 1337
"""Seed of the division into folds, and of the order of each training list."""
LABELLED = "labelled"
"""The split of `dataloaders.splits` that the training list belongs to."""
REMEDY = "choose an --output on a disk with free space, and with symbolic links"
Split: TypeAlias = Mapping[str, Sequence[str]]
"""One fold in nnU-Net's form: the cases `train` and `val`. The latter are tested."""


def fold_root(output: Path, fold: int) -> Path:
    """Return the folder of a fold, for --root_path."""
    return output / FOLDER / f"fold{fold}"


def write_folds(output: Path, dataset: DatasetSpec, root_path: Path | None, count: int) -> None:
    """Write the folders of `count` folds, divided by splits_final.json in `output`.

    If there is no such file, the patients are divided with `SEED`, and the file is written. Raises
    UserError for a file that does not fit the data, and for training cases without a volume to test
    on.
    """
    info = dataset.info
    root = data_root(info.name, root_path).absolute()
    check_root(root, info.name)
    names = info.read_list(root, info.train_list)
    cases = list(dict.fromkeys(case_of(info, LABELLED, name) for name in names))
    _check_volumes(root, info, cases)
    path = output / FILE
    if path.is_file():
        splits = read_splits(path, cases, count)
    else:
        splits = divided(cases, count)
        with writing(path, REMEDY), replacing(path) as unfinished:
            unfinished.write_text(json.dumps(splits, indent=1) + "\n", encoding="utf-8")
    for number, split in enumerate(splits):
        folder = fold_root(output, number)
        lists = {
            info.train_list: training_names(info, names, split["train"], fold=number),
            info.test_list: split["val"],
        }
        if info.dims == 2:
            lists[_volume_list(dataset)] = split["train"]
        if info.unlabelled_list:
            lists[info.unlabelled_list] = _unlabelled(info, root, split["val"])
        with writing(folder, REMEDY):
            _write_folder(folder, root, lists)


def divided(cases: Sequence[str], count: int) -> list[Split]:
    """Divide the patients of the cases into `count` folds of equal size, up to one patient.

    All cases of a patient are in the same fold. Raises UserError if there are too few patients.
    """
    patients = sorted({patient(case) for case in cases})
    if count > len(patients):
        raise UserError(
            f"--folds {count}: the training list has {len(patients)} patients; use fewer folds"
        )
    shuffled = np.random.default_rng(SEED).permutation(patients)
    splits: list[Split] = []
    for tested in np.array_split(shuffled, count):
        val = {str(name) for name in tested}
        splits.append(
            {
                "train": sorted(case for case in cases if patient(case) not in val),
                "val": sorted(case for case in cases if patient(case) in val),
            }
        )
    return splits


def read_splits(path: Path, cases: Sequence[str], count: int) -> list[Split]:
    """Read the folds in `path`.

    Raises UserError unless it holds `count` folds, each of which divides all `cases` into train and
    val, never within a patient, and every case is in val of one fold.
    """
    try:
        splits = read_json(path)
        _check_form(splits)
        _check_folds(splits, cases, count)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: {error}; correct it, or delete it and use another --output"
        ) from None
    return splits


def training_names(
    info: DatasetInfo, names: Sequence[str], train: Sequence[str], fold: int
) -> list[str]:
    """Return the training list of a fold: the `names` of the cases `train`, patient by patient.

    The patients are in an order that is drawn for the fold, and --labelnum counts from its
    beginning. `names`: the training list of the data set, which are slices on 2-D data.
    """
    patients = sorted({patient(case) for case in train})
    by_patient: dict[str, list[str]] = {
        str(name): [] for name in np.random.default_rng([SEED, fold]).permutation(patients)
    }
    for name in names:
        owner = patient(case_of(info, LABELLED, name))
        if owner in by_patient:
            by_patient[owner].append(name)
    return list(chain.from_iterable(by_patient.values()))


def _unlabelled(info: DatasetInfo, root: Path, tested: Sequence[str]) -> list[str]:
    """Return the unlabelled training names, without those of patients that are tested."""
    patients = {patient(case) for case in tested}
    return [
        name
        for name in info.never_labelled(root)
        if patient(case_of(info, LABELLED, name)) not in patients
    ]


def _check_form(splits: Any) -> None:
    """Raise ValueError unless the content is a list of folds, each with lists of names."""
    if isinstance(splits, list) and splits and all(map(_is_fold, splits)):
        return
    raise ValueError('expected a list of folds, each {"train": [...], "val": [...]}')


def _is_fold(content: Any) -> bool:
    if not isinstance(content, dict):
        return False
    for part in ("train", "val"):
        names = content.get(part)
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            return False
    return True


def _check_folds(splits: Sequence[Split], cases: Sequence[str], count: int) -> None:
    """Raise ValueError where folds do not fit the cases."""
    if len(splits) != count:
        raise ValueError(f"holds {len(splits)} folds, but --folds is {count}")
    for number, split in enumerate(splits):
        _check_fold(number, split, cases=cases)
    tested = Counter(chain.from_iterable(split["val"] for split in splits))
    for case in cases:
        if tested[case] != 1:
            raise ValueError(f"{case} is in val of {tested[case]} folds, expected one")


def _check_fold(number: int, split: Split, cases: Sequence[str]) -> None:
    """Raise ValueError unless the fold of that number divides the cases by patient."""
    for part in ("train", "val"):
        if not split[part]:
            raise ValueError(f"fold {number} has no case in {part}")
    listed = Counter([*split["train"], *split["val"]])
    for case in dict.fromkeys([*cases, *listed]):
        if case not in cases:
            raise ValueError(f"fold {number} names {case}, which the training list does not")
        if listed[case] != 1:
            raise ValueError(f"fold {number} names {case} {listed[case]} times, expected once")
    divided_patients = set(map(patient, split["train"])) & set(map(patient, split["val"]))
    if divided_patients:
        raise ValueError(f"fold {number} has cases of {min(divided_patients)} in train and in val")


def _check_volumes(root: Path, info: DatasetInfo, cases: Sequence[str]) -> None:
    """Raise UserError for a case without a volume to test on."""
    missing = [case for case in cases if not info.path(root, case).is_file()]
    if missing:
        raise UserError(
            f"{info.path(root, missing[0])}: no such file, and {len(missing)} of {len(cases)} "
            "training cases have no volume; --folds tests on them, so put the volumes there"
        )


def _volume_list(dataset: DatasetSpec) -> str:
    """Return the name of the list of a 2-D data set that names its training cases, not slices."""
    if dataset.plan is not None:
        return dataset.plan["lists"]["train"]
    return f"train{Path(dataset.info.test_list).suffix}"


def _write_folder(folder: Path, root: Path, lists: Mapping[str, Sequence[str]]) -> None:
    """Write the lists of a fold, and links to everything else in `root`.

    Raises OSError where that is not possible.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for path in root.iterdir():
        link = folder / path.name
        is_skipped = path.name in lists or path.name in (NAME, HOLDER)
        if is_skipped or path.name.startswith(".") or folder.is_relative_to(path):
            continue
        if link.is_symlink() and link.readlink() != path:
            link.unlink()
        if not link.is_symlink():
            link.symlink_to(path)
    for name, lines in lists.items():
        with replacing(folder / name) as unfinished:
            text = "".join(f"{list_line(line)}\n" for line in lines)
            unfinished.write_text(text, encoding="utf-8")
