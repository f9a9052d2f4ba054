"""Training and test of any page, found by --dataset."""

import sys
from collections.abc import Sequence
from pathlib import Path

from programs.evaluation import evaluate
from programs.settings import last_value
from programs.training import train
from recipes.page import Page
from recipes.registry import find_page, pages
from training.checkpoint import read
from utils.errors import UserError


def train_any(argv: Sequence[str] | None = None, description: str = "") -> None:
    """Train on the page that --dataset names."""
    page, argv = _chosen(argv, "PAGE")
    train(page, argv, description)


def test_any(argv: Sequence[str] | None = None, description: str = "") -> None:
    """Test a run on the page that --dataset names, or a --checkpoint on that of its own data set."""
    argv = sys.argv[1:] if argv is None else list(argv)
    file = last_value(argv, "checkpoint")
    if file and not last_value(argv, "dataset"):
        name = read(Path(file)).facts.get("name")
        if not name:
            raise UserError(f"{file}: a published checkpoint does not say of what data set it is; name it with --dataset")
        argv = [*argv, "--dataset", name]
    page, argv = _chosen(argv, "PAGE")
    evaluate(page, argv, description)


def train_two_slices(argv: Sequence[str] | None = None, description: str = "") -> None:
    """Train CoGRNet, or a baseline of it, on the data set that --dataset names, LA if none."""
    page, argv = _chosen(argv, "TWO_SLICES", "LA")
    train(page, argv, description)


def test_two_slices(argv: Sequence[str] | None = None, description: str = "") -> None:
    """Test a run of `train_two_slices`."""
    page, argv = _chosen(argv, "TWO_SLICES", "LA")
    evaluate(page, argv, description)


def _chosen(argv: Sequence[str] | None, attribute: str, default: str = "") -> tuple[Page, list[str]]:
    """The page, and the other words of the command line."""
    argv = sys.argv[1:] if argv is None else list(argv)
    name = last_value(argv, "dataset") or default
    if not name and not {"-h", "--help"} & set(argv):
        raise UserError(f"--dataset: name one of {', '.join(pages(attribute))}, or a page's file (docs/extending.md)")
    rest = []
    skip = False
    for word in argv:
        if not (skip or word == "--dataset" or word.startswith("--dataset=")):
            rest.append(word)
        skip = word == "--dataset"
    return find_page(name or "ACDC", attribute), rest
