"""Training and test of any page, found by --dataset."""

import sys
from collections.abc import Sequence
from pathlib import Path

from commands.runs import find_checkpoint
from commands.test import evaluate
from commands.train import train, training_settings
from dataloaders.plan import FILE as PLAN
from dataloaders.plan import read_plan
from datasets.base import DatasetSpec
from datasets.own import own_dataset, own_two_slices
from datasets.registry import all_datasets, find_dataset
from datasets.run_settings import is_flag, last_value
from training.checkpoint import read
from utils.errors import UserError
from utils.messages import message


def train_any(argv: Sequence[str] | None = None, description: str = "") -> None:
    """Train on the page that --dataset names, or on own data below --root_path; with --seeds once with each of them, in runs of their
    own named <exp>_seed<seed>."""
    dataset, argv = _chosen(argv, "DATASET", published="train")
    words, argv = taken(argv, "seeds")
    if not words:
        return train(dataset, argv, description)
    exp = training_settings(dataset, argv, description, say=_unsaid).exp
    for seed in _seeds(words):
        message(f"--seeds: {seed}")
        train(dataset, [*argv, "--seed", str(seed), "--exp", f"{exp}_seed{seed}"], description)


def _unsaid(line: str) -> None:
    """Nothing: each run says it."""


def _seeds(words: Sequence[str]) -> list[int]:
    wrong = [word for word in words if not word.isdecimal()]
    if wrong:
        raise UserError(
            f"--seeds {wrong[0]}: whole numbers are expected, as in --seeds 1337 1338 1339"
        )
    return [int(word) for word in dict.fromkeys(words)]


def test_any(argv: Sequence[str] | None = None, description: str = "") -> None:
    """Test a run on the page that --dataset names, or a --checkpoint on that of its own data set."""
    argv = sys.argv[1:] if argv is None else list(argv)
    file = last_value(argv, "checkpoint")
    if file and not last_value(argv, "dataset"):
        root = last_value(argv, "root_path")
        dataset = data_of_checkpoint(Path(file), root_path=Path(root) if root else None)
    else:
        dataset, argv = _chosen(argv, "DATASET", published="test")
    evaluate(dataset, argv, description)


def train_two_slices(argv: Sequence[str] | None = None, description: str = "") -> None:
    """Train CoGRNet, or a baseline of it, on the data set that --dataset names, LA if none."""
    dataset, argv = _chosen(argv, "TWO_SLICES", "LA")
    train(dataset, argv, description)


def test_two_slices(argv: Sequence[str] | None = None, description: str = "") -> None:
    """Test a run of `train_two_slices`."""
    dataset, argv = _chosen(argv, "TWO_SLICES", "LA")
    evaluate(dataset, argv, description)


def own_root(argv: Sequence[str]) -> Path | None:
    """The --root_path of own data: a folder with a plan, where no --dataset is named."""
    root = last_value(argv, "root_path")
    if not root or last_value(argv, "dataset") or not (Path(root) / PLAN).is_file():
        return None
    return Path(root)


def find_data(
    dataset: str, root_path: Path | None, attribute: str = "DATASET"
) -> DatasetSpec | None:
    """The data set of that name, or that of own data below `root_path` where no name is given; None where neither is there.

    `attribute`: DATASET, or TWO_SLICES for what CoGRNet trains on. UserError for an unknown name, and for a damaged plan.
    """
    if dataset:
        return find_dataset(dataset, attribute)
    if root_path is None or not (root_path / PLAN).is_file():
        return None
    own = {"DATASET": own_dataset, "TWO_SLICES": own_two_slices}[attribute]
    return own(read_plan(root_path), root_path)


def data_of_checkpoint(
    place: Path, root_path: Path | None, attribute: str = "DATASET"
) -> DatasetSpec:
    """The data set that the checkpoint `place`, or the run in that folder, was trained on; UserError where that is not known."""
    path, _ = find_checkpoint(place)
    checkpoint = read(path)
    if checkpoint.plan:
        own = find_data("", root_path, attribute)
        if own is None:
            raise UserError(
                f"{place}: trained on data of somebody's own; name their folder with --root_path"
            )
        return own
    name = checkpoint.info.get("name")
    if not name:
        raise UserError(
            f"{place}: a published checkpoint does not say of what data set it is; name it with --dataset"
        )
    return find_dataset(name, attribute)


def taken(argv: Sequence[str], flag: str) -> tuple[list[str], list[str]]:
    """The values that the words of a command line give a flag, and the other words."""
    values, rest, inside = [], [], False
    for word in argv:
        if is_flag(word.partition("=")[0], flag):
            inside = True
            values = [word.partition("=")[2]] if "=" in word else []
        elif inside and not word.startswith("--"):
            values.append(word)
        else:
            inside = False
            rest.append(word)
    return values, rest


def _answer(published: str) -> str:
    """What to type for the published command of CoGRNet."""
    script = {"train": "CoGRNet_train.py", "test": "test_CoGRNet.py"}[published]
    return f"CoGRNet's published {published}.py is code/{script} here"


def _chosen(
    argv: Sequence[str] | None, attribute: str, default: str = "", published: str = ""
) -> tuple[DatasetSpec, list[str]]:
    """The page, and the other words of the command line; `published`: the script of CoGRNet that has the same name as this one."""
    argv = sys.argv[1:] if argv is None else list(argv)
    root = own_root(argv)
    own = find_data("", root, attribute)
    if own is not None:
        return own, argv
    (*_, name), rest = (default, *taken(argv, "dataset")[0]), taken(argv, "dataset")[1]
    if not name and not {"-h", "--help"} & set(argv):
        raise UserError(
            f"--dataset: name one of {', '.join(all_datasets(attribute))}, a page's file (docs/extending.md), or with --root_path the folder of "
            f"own data that prepare_data.py wrote (docs/data.md); {_answer(published)}"
        )
    return find_dataset(name or "ACDC", attribute), rest
