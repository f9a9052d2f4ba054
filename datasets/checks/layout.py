"""What kind of data lie in a folder, and which cases there are to be looked at."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dataloaders.dataset_info import DatasetInfo
from dataloaders.hdf5 import SPLITS
from dataloaders.plan import FILE, Plan, read_plan
from dataloaders.splits import case_of, cheap_check, listed_path
from datasets.checks.case_check import CaseFound
from datasets.checks.check_prepared import check_prepared
from datasets.checks.check_raw import check_raw
from datasets.prepare.nnunet import read_dataset
from utils.errors import UserError


@dataclass(frozen=True)
class Job:
    """A case to look at: call `look(*arguments, picture)`."""

    name: str
    look: Callable[..., CaseFound]
    arguments: tuple


@dataclass(frozen=True)
class Found:
    """The data set's name and layout (raw or prepared), its cases, its classes (name by value, no
    background), and what lists told.
    """

    name: str
    layout: str
    jobs: tuple[Job, ...]
    classes: Mapping[int, str]
    errors: tuple[str, ...]
    warnings: tuple[str, ...]


def find(root: Path, dataset: str) -> Found:
    """What lies in the folder; UserError where nothing known does. `dataset`: a page's name or
    file, empty to recognise it.
    """
    if not root.is_dir():
        raise UserError(
            f"--root_path {root}: no such folder; name one with raw data in nnU-Net's layout, or "
            "with prepared data"
        )
    if dataset:
        return _published(root, _dataset(dataset))
    if (root / "dataset.json").is_file() or (root / "imagesTr").is_dir():
        return _raw(root)
    if (root / FILE).is_file():
        return _own(root)
    return _published(root, _recognised(root))


def _raw(root: Path) -> Found:
    errors: list[str] = []
    try:
        about = read_dataset(root, errors.append)
    except UserError as error:
        return Found(root.resolve().name, "raw", (), {}, (*errors, str(error)), ())
    values, warnings = tuple(value for value, _ in about.labels), list(about.warnings)
    if values != tuple(range(len(values))):
        shown = ", ".join(map(str, values[:8])) + (" ..." if len(values) > 8 else "")
        warnings.append(
            f"{root / 'dataset.json'}: the label values {shown} have gaps; prepare_data.py closes "
            "them and predictions get them back, "
            "nnU-Net would refuse them"
        )
    jobs = [Job(case.name, check_raw, (case, values)) for case in about.cases]
    return Found(
        about.name, "raw", tuple(jobs), dict(about.labels[1:]), tuple(errors), tuple(warnings)
    )


def _own(root: Path) -> Found:
    plan = read_plan(root)
    lists = {
        split: plan.lists.get(f"{split}_slices") or plan.lists[split]
        for split in plan.lists
        if not split.endswith("_slices")
    }
    names = {}
    for split, file in lists.items():
        if (
            (root / file).is_file()
            and not (root / file).read_text(encoding="utf-8", errors="replace").strip()
            and split != "train"
        ):
            continue  # nobody was held out, say
        names[split] = info_of(plan).read_list(root, file)
    return _prepared(root, info_of(plan), names, {"train": True, "unlabelled": False})


def info_of(plan: Plan) -> DatasetInfo:
    """A plan's facts, as far as reading its files needs them."""
    slices = {"slice_file": str(Path(plan.slice_file).with_name("{}.h5"))} if plan.dims == 2 else {}
    return DatasetInfo(
        name=plan.name,
        class_names=plan.class_names,
        channels=plan.channels,
        dims=plan.dims,
        file=plan.file,
        train_list=plan.lists["train"],
        test_list=plan.lists["test"],
        axes=plan.axes,
        **slices,
    )


def _published(root: Path, info: DatasetInfo) -> Found:
    lists = {
        "train": info.train_list,
        "unlabelled": info.unlabelled_list,
        "val": info.list_name("val"),
        "test": info.test_list,
    }
    there = {
        split: file
        for split, file in lists.items()
        if file
        and (
            split != "val" or os.path.lexists(root / file) or (SPLITS / info.name / file).is_file()
        )
    }
    names = {split: info.read_list(root, file) for split, file in there.items()}
    # without a list of its own, which training cases are unlabelled depends on --labelnum
    labels = {"train": True, "unlabelled": False} if info.unlabelled_list else {"train": None}
    return _prepared(root, info, names, labels)


def _prepared(
    root: Path,
    info: DatasetInfo,
    lists: Mapping[str, Sequence[str]],
    labels: Mapping[str, bool | None],
) -> Found:
    jobs = []
    for split, names in lists.items():
        cases: dict[str, list[Path]] = {}
        for name in dict.fromkeys(names):
            path = listed_path(root, info, split, name)
            if path.is_file():
                cases.setdefault(case_of(info, split, name), []).append(path)
        jobs += [
            Job(case, check_prepared, (info, case, split, paths, labels.get(split, True)))
            for case, paths in cases.items()
        ]
    classes = dict.fromkeys(info.foreground, info.class_names[1]) or dict(
        enumerate(info.class_names[1:], 1)
    )
    warnings = []
    if info.name == "Pancreas" and (others := sorted(root.glob("data/image*_norm.h5"))):
        listed = {path for job in jobs for path in job.arguments[3]}
        if left := [path for path in others if path not in listed]:
            warnings.append(
                f"{left[0]}: one of {len(left)} files of MC-Net's preparation that no list names; "
                "keep the two preparations apart"
            )
    return Found(
        info.name,
        "prepared",
        tuple(jobs),
        classes,
        tuple(cheap_check(root, info, lists)),
        tuple(warnings),
    )


def _dataset(name: str) -> DatasetInfo:
    from datasets.registry import (
        find_dataset,  # with it comes torch, which own data need not wait for
    )

    return find_dataset(name).info


def _recognised(root: Path) -> DatasetInfo:
    """The facts of the published data set whose lists name most files here; UserError where none
    does, or two alike.
    """
    from datasets.registry import all_datasets

    counts = {}
    for name, dataset in all_datasets().items():
        try:
            listed = dataset.info.read_list(root, dataset.info.test_list)
        except UserError:
            continue
        counts[name] = sum(dataset.info.path(root, case).is_file() for case in listed)
    best = [name for name, count in counts.items() if count and count == max(counts.values())]
    if not best:
        raise UserError(
            f"--root_path {root}: neither raw data (no dataset.json) nor prepared ones (no "
            "plan.json, no file that a list of "
            f"{', '.join(counts)} names); name the data set with --dataset, or make it: "
            "code/prepare_data.py"
        )
    if len(best) > 1:
        raise UserError(
            f"--root_path {root}: could be {' or '.join(best)}; say which with --dataset"
        )
    return all_datasets()[best[0]].info
