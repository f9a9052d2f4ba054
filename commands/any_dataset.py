"""The data set that a command means: by name, by its file, by a folder of own data or by a
checkpoint.
"""

from collections.abc import Sequence
from pathlib import Path

from commands.config_file import read_config_file
from commands.runs import find_checkpoint
from dataloaders.plan import FILE as PLAN
from dataloaders.plan import read_plan
from datasets.base import DatasetSpec
from datasets.own import own_dataset, own_two_slices
from datasets.registry import DatasetKind, all_datasets, find_dataset
from training.checkpoint import read
from utils.cli import last_value
from utils.errors import UserError
from utils.values import convert


def tested_dataset(argv: Sequence[str]) -> DatasetSpec:
    """Return the data set that --dataset names, or without it that of a --checkpoint.

    Raises UserError if the flags name none.
    """
    file = last_value(argv, "checkpoint")
    if file and not last_value(argv, "dataset"):
        return data_of_checkpoint(Path(file), root_path=_root_path(argv))
    return chosen_dataset(argv, "DATASET", published="test")


def find_data(
    dataset: str, root_path: Path | None, kind: DatasetKind = "DATASET"
) -> DatasetSpec | None:
    """Return the data set of that name, or without a name the own data in `root_path`; None if
    neither is given.

    Raises UserError for an unknown name, and for a damaged plan.
    """
    if dataset:
        return find_dataset(dataset, kind)
    if root_path is None or not (root_path / PLAN).is_file():
        return None
    build = {"DATASET": own_dataset, "TWO_SLICES": own_two_slices}[kind]
    return build(read_plan(root_path), root_path)


def data_of_checkpoint(
    place: Path, root_path: Path | None, kind: DatasetKind = "DATASET"
) -> DatasetSpec:
    """Return the data set that a checkpoint, or the run in a folder, was trained on.

    Raises UserError if that is not known.
    """
    path, _ = find_checkpoint(place)
    checkpoint = read(path)
    if checkpoint.plan:
        dataset = find_data("", root_path, kind)
        if dataset is None:
            raise UserError(f"{place}: trained on own data; name their folder with --root_path")
        return dataset
    name = checkpoint.info.get("name")
    if not name:
        raise UserError(
            f"{place}: a published checkpoint does not name its data set; use --dataset"
        )
    return find_dataset(name, kind)


def chosen_dataset(
    argv: Sequence[str], kind: DatasetKind, *, default: str = "", published: str = ""
) -> DatasetSpec:
    """Return the data set that a command line means: that of --dataset, own data below --root_path,
    that of --config, or `default`.

    `published`: name of CoGRNet's published script that the user may mean. Raises UserError if the
    flags name none.
    """
    name = last_value(argv, "dataset")
    root_path = _root_path(argv)
    file = last_value(argv, "config")
    if not name and file:
        config = read_config_file(Path(file))
        if root_path is None and "root_path" in config.values:
            root_path = convert("root_path", config.values["root_path"], kind=Path | None)
        if config.dataset in all_datasets(kind):
            name = config.dataset
    dataset = find_data(name or "", root_path, kind)
    if dataset is not None:
        return dataset
    if default or {"-h", "--help"} & set(argv):
        return find_dataset(default or "ACDC", kind)
    if root_path is not None and not root_path.is_dir():
        raise UserError(f"--root_path {root_path}: is not a folder; check the path")
    script = {"train": "CoGRNet_train.py", "test": "test_CoGRNet.py"}[published]
    raise UserError(
        f"--dataset is missing; name {' or '.join(all_datasets(kind))}, or a Python file "
        f"(docs/extending.md); for own data, give --root_path (docs/data.md); for CoGRNet, use "
        f"code/{script}"
    )


def _root_path(argv: Sequence[str]) -> Path | None:
    root = last_value(argv, "root_path")
    if not root:
        return None
    return Path(root)
