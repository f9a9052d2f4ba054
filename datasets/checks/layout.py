"""Recognise the kind of data in a folder, and list the cases to check."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dataloaders.dataset_info import DatasetInfo
from dataloaders.hdf5 import SPLITS, check_root
from dataloaders.plan import FILE, Plan, read_plan
from dataloaders.splits import case_of, list_faults, listed_path
from datasets.checks.case_check import CaseCheck
from datasets.checks.check_prepared import check_prepared
from datasets.checks.check_raw import check_raw
from datasets.prepare.nnunet import read_dataset
from datasets.prepare.own_scans import OwnPreparation
from datasets.prepare.prepared_files import settings_text
from datasets.prepare.published import PublishedPreparation
from utils.errors import UserError

if TYPE_CHECKING:
    from datasets.base import DatasetSpec

TRAIN = "code/train.py"
"""The training script of data sets without one of their own."""


@dataclass(frozen=True)
class CheckJob:
    """A case to check. `check` takes the path of its picture, or None."""

    name: str
    check: Callable[[Path | None], CaseCheck]


@dataclass(frozen=True)
class DataFolder:
    """The data set in a folder. `layout`: raw or prepared. `classes`: name by label value, without
    the background. `errors` and `warnings`: of the lists and of dataset.json. `script`: of
    prepared data, the script that uses them first, and its flags without --root_path.
    `preparation`: of own data, the plan's settings as prepared files record them.
    """

    name: str
    layout: str
    jobs: tuple[CheckJob, ...]
    classes: Mapping[int, str]
    errors: tuple[str, ...]
    warnings: tuple[str, ...]
    script: tuple[str, ...] = ()
    preparation: str = ""


def recognise(root: Path, dataset: str) -> DataFolder:
    """The data in the folder. `dataset`: name or file of the data set, empty if it is unknown.

    Raises UserError where the folder has no known layout.
    """
    if not root.is_dir():
        raise UserError(
            f"--root_path {root}: no such folder; "
            "choose one with raw data in nnU-Net's layout, or with prepared data"
        )
    if dataset:
        # imports torch, which own data do not need
        from datasets.registry import find_dataset

        spec = find_dataset(dataset)
        check_root(root, spec.info.name)
        return _published(root, spec, name=dataset)
    if (root / "dataset.json").is_file() or (root / "imagesTr").is_dir():
        return _raw(root)
    if (root / FILE).is_file():
        return _own(root)
    recognised = _recognised(root)
    return _published(root, recognised, name=recognised.info.name)


def _raw(root: Path) -> DataFolder:
    errors: list[str] = []
    try:
        dataset = read_dataset(root, errors.append)
    except UserError as error:
        faults = (*errors, str(error))
        return DataFolder(
            root.resolve().name, layout="raw", jobs=(), classes={}, errors=faults, warnings=()
        )
    values = tuple(value for value, _ in dataset.labels)
    warnings = list(dataset.warnings)
    if values != tuple(range(len(values))):
        more = " ..." if len(values) > 8 else ""
        shown = ", ".join(map(str, values[:8])) + more
        warnings.append(
            f"{root / 'dataset.json'}: the label values {shown} have gaps; prepare_data.py closes "
            "them and predictions get them back, nnU-Net would refuse them"
        )
    names = dict(dataset.labels)
    jobs = tuple(
        CheckJob(case.name, check=partial(check_raw, case, names)) for case in dataset.cases
    )
    return DataFolder(
        dataset.name,
        layout="raw",
        jobs=jobs,
        classes=dict(dataset.labels[1:]),
        errors=tuple(errors),
        warnings=tuple(warnings),
    )


def _own(root: Path) -> DataFolder:
    plan = read_plan(root)
    info = info_of(plan)
    names = {}
    for split, file in plan.lists.items():
        if split.endswith("_slices"):
            continue
        file = plan.lists.get(f"{split}_slices") or file
        if split == "train" or not _is_empty(root / file):
            names[split] = info.read_list(root, file)
    folder = _prepared(root, info, lists=names, labels={"train": True, "unlabelled": False})
    settings = settings_text(OwnPreparation(plan, ()).settings)
    return replace(folder, script=(TRAIN,), preparation=settings)


def _is_empty(path: Path) -> bool:
    """Whether a list has no line, for example because no case is held out for validation."""
    return path.is_file() and not path.read_text(encoding="utf-8", errors="replace").strip()


def info_of(plan: Plan) -> DatasetInfo:
    """The part of a plan that is needed to read its files."""
    slice_file = None
    if plan.dims == 2:
        slice_file = str(Path(plan.slice_file).with_name("{}.h5"))
    return DatasetInfo(
        name=plan.name,
        class_names=plan.class_names,
        channels=plan.channels,
        dims=plan.dims,
        file=plan.file,
        slice_file=slice_file,
        train_list=plan.lists["train"],
        test_list=plan.lists["test"],
        axes=plan.axes,
    )


def _published(root: Path, dataset: "DatasetSpec", name: str) -> DataFolder:
    """`name`: the data set's name, or the Python file that describes it."""
    info = dataset.info
    lists = {"train": info.train_list}
    # without a list of their own, the unlabelled training cases depend on --labelnum
    labels: dict[str, bool | None] = {"train": None}
    if info.unlabelled_list:
        lists["unlabelled"] = info.unlabelled_list
        labels = {"train": True, "unlabelled": False}
    val_list = info.list_name("val")
    if os.path.lexists(root / val_list) or (SPLITS / info.name / val_list).is_file():
        lists["val"] = val_list
    lists["test"] = info.test_list
    names = {split: info.read_list(root, file) for split, file in lists.items()}
    script = dataset.script or (TRAIN, "--dataset", name)
    folder = _prepared(root, info, lists=names, labels=labels, preparation=dataset.preparation)
    return replace(folder, script=script)


def _prepared(
    root: Path,
    info: DatasetInfo,
    lists: Mapping[str, Sequence[str]],
    labels: Mapping[str, bool | None],
    preparation: type[PublishedPreparation] | None = None,
) -> DataFolder:
    jobs = []
    listed: set[Path] = set()
    for split, names in lists.items():
        for case, paths in _files_by_case(root, info, split=split, names=names).items():
            listed.update(paths)
            label = labels.get(split, True)
            check = partial(check_prepared, info, case, split, paths, label, preparation)
            jobs.append(CheckJob(case, check=check))
    classes = dict(enumerate(info.class_names[1:], 1))
    if info.foreground:
        classes = dict.fromkeys(info.foreground, info.class_names[1])
    warnings = []
    if preparation is not None and preparation.other_files:
        others = [path for path in sorted(root.glob(preparation.other_files)) if path not in listed]
        if others:
            warnings.append(
                f"{others[0]}: one of {len(others)} files of another preparation, which no list "
                "names; keep the two preparations apart"
            )
    return DataFolder(
        info.name,
        layout="prepared",
        jobs=tuple(jobs),
        classes=classes,
        errors=tuple(list_faults(root, info, lists)),
        warnings=tuple(warnings),
    )


def _files_by_case(
    root: Path, info: DatasetInfo, split: str, names: Sequence[str]
) -> dict[str, list[Path]]:
    """The existing files of each case in a list."""
    files: dict[str, list[Path]] = {}
    for name in dict.fromkeys(names):
        path = listed_path(root, info, split, name)
        if path.is_file():
            files.setdefault(case_of(info, split, name), []).append(path)
    return files


def _recognised(root: Path) -> "DatasetSpec":
    """The data set whose lists name most files here. Raises UserError for none, or two alike."""
    from datasets.registry import all_datasets

    datasets = all_datasets()
    counts = {}
    for name, dataset in datasets.items():
        info = dataset.info
        try:
            listed = info.read_list(root, info.test_list)
        except UserError:
            continue
        counts[name] = sum(info.path(root, case).is_file() for case in listed)
    most = max(counts.values(), default=0)
    best = [name for name, count in counts.items() if count and count == most]
    if not best:
        raise UserError(
            f"--root_path {root}: neither raw data (no dataset.json) nor prepared data (no "
            f"plan.json, no file that a list of {', '.join(counts)} names); name the data set with "
            "--dataset, or prepare it: code/prepare_data.py"
        )
    if len(best) > 1:
        raise UserError(
            f"--root_path {root}: could be {' or '.join(best)}; choose one with --dataset"
        )
    return datasets[best[0]]
