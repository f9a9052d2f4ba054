"""Training and test of any page, found by --dataset."""

import sys
from collections.abc import Sequence
from pathlib import Path

from dataloaders.plan import FILE as PLAN
from dataloaders.plan import read_plan
from programs.evaluation import evaluate
from programs.runs import find_checkpoint
from programs.settings import is_flag, last_value
from programs.training import train, training_settings
from recipes.own import own_page, own_two_slices
from recipes.page import Page
from recipes.registry import find_page, pages
from training.checkpoint import read
from utils.errors import UserError
from utils.messages import message


def train_any(argv: Sequence[str] | None = None, description: str = "") -> None:
    """Train on the page that --dataset names, or on own data below --root_path; with --seeds once with each of them, in runs of their
    own named <exp>_seed<seed>."""
    page, argv = _chosen(argv, "PAGE", published="train")
    words, argv = taken(argv, "seeds")
    if not words:
        return train(page, argv, description)
    exp = training_settings(page, argv, description, say=_unsaid).exp
    for seed in _seeds(words):
        message(f"--seeds: {seed}")
        train(page, [*argv, "--seed", str(seed), "--exp", f"{exp}_seed{seed}"], description)


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
        page = data_of_checkpoint(Path(file), root_path=Path(root) if root else None)
    else:
        page, argv = _chosen(argv, "PAGE", published="test")
    evaluate(page, argv, description)


def train_two_slices(argv: Sequence[str] | None = None, description: str = "") -> None:
    """Train CoGRNet, or a baseline of it, on the data set that --dataset names, LA if none."""
    page, argv = _chosen(argv, "TWO_SLICES", "LA")
    train(page, argv, description)


def test_two_slices(argv: Sequence[str] | None = None, description: str = "") -> None:
    """Test a run of `train_two_slices`."""
    page, argv = _chosen(argv, "TWO_SLICES", "LA")
    evaluate(page, argv, description)


def own_root(argv: Sequence[str]) -> Path | None:
    """The --root_path of own data: a folder with a plan, where no --dataset is named."""
    root = last_value(argv, "root_path")
    if not root or last_value(argv, "dataset") or not (Path(root) / PLAN).is_file():
        return None
    return Path(root)


def find_data(dataset: str, root_path: Path | None, attribute: str = "PAGE") -> Page | None:
    """The data set of that name, or that of own data below `root_path` where no name is given; None where neither is there.

    `attribute`: PAGE, or TWO_SLICES for what CoGRNet trains on. UserError for an unknown name, and for a damaged plan.
    """
    if dataset:
        return find_page(dataset, attribute)
    if root_path is None or not (root_path / PLAN).is_file():
        return None
    own = {"PAGE": own_page, "TWO_SLICES": own_two_slices}[attribute]
    return own(read_plan(root_path), root_path)


def data_of_checkpoint(place: Path, root_path: Path | None, attribute: str = "PAGE") -> Page:
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
    name = checkpoint.facts.get("name")
    if not name:
        raise UserError(
            f"{place}: a published checkpoint does not say of what data set it is; name it with --dataset"
        )
    return find_page(name, attribute)


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
) -> tuple[Page, list[str]]:
    """The page, and the other words of the command line; `published`: the script of CoGRNet that has the same name as this one."""
    argv = sys.argv[1:] if argv is None else list(argv)
    root = own_root(argv)
    own = find_data("", root, attribute)
    if own is not None:
        return own, argv
    (*_, name), rest = (default, *taken(argv, "dataset")[0]), taken(argv, "dataset")[1]
    if not name and not {"-h", "--help"} & set(argv):
        raise UserError(
            f"--dataset: name one of {', '.join(pages(attribute))}, a page's file (docs/extending.md), or with --root_path the folder of "
            f"own data that prepare_data.py wrote (docs/data.md); {_answer(published)}"
        )
    return find_page(name or "ACDC", attribute), rest
