"""Synthetic volumes in the published layouts of LA, Pancreas, KiTS19 and LiTS."""

from pathlib import Path

import numpy as np

from dataloaders.facts import DatasetFacts
from dataloaders.phantom.files import claimed, within, write_case, write_lists
from dataloaders.phantom.organs import RECIPES, draw_case
from utils.errors import UserError
from utils.progress import progress

# fewer voxels along an axis would break the thin parts of the organs
LEAST = {"x": 32, "y": 32, "z": 16}


def write_volume_phantom(
    facts: DatasetFacts,
    root: str | Path,
    train: int = 20,
    test: int = 6,
    size: tuple[int, int, int] | None = None,
    seed: int = 1337,
    labelled: int | None = None,
) -> None:
    """Write `train` + `test` cases below `root` in the layout of `facts`, the training cases first.

    `size` is the mean shape in voxels, in the axis order of the data set's arrays. `labelled`, for Pancreas alone: how many
    training cases its list of labelled ones names (12 of 62 unless given), the list of unlabelled ones names the others. Case i
    depends on `seed`, i and `size` only. Lists come last, so a half-written folder has none; the same call may be repeated.
    UserError if a number is out of range, if the folder cannot be written, or if it holds anything but a phantom of the same settings.
    """
    root, recipe = Path(root), RECIPES[facts.name]
    size = tuple(size or recipe.size)
    if len(size) != 3:
        raise UserError(
            f"--size takes three numbers for {facts.name}, the voxels along {', '.join(facts.axes)}, not {len(size)}"
        )
    for axis, voxels in zip(facts.axes, size, strict=True):
        within(f"size ({axis})", voxels, LEAST[axis], 512)
    split = facts.unlabelled_list is not None
    within("train", train, 1 + split, 900)
    within("test", test, 1, 900)
    within("seed", seed, 0, 2**63)
    lists = {facts.train_list: train, facts.test_list: test}
    settings = {
        "phantom": facts.name,
        "train": train,
        "test": test,
        "size": list(size),
        "seed": seed,
    }
    if split:
        labelled = max(1, round(train * 12 / 62)) if labelled is None else labelled
        within("labelled", labelled, 1, train - 1)
        lists = {
            facts.train_list: labelled,
            facts.unlabelled_list: train - labelled,
            facts.test_list: test,
        }
        settings["labelled"] = labelled
    elif labelled is not None:
        raise UserError(
            f"--labelled: {facts.name} has one list of training cases, and --labelnum says how many are labelled; leave it out"
        )
    names = [recipe.case.format(number) for number in range(1, train + test + 1)]
    # what lies at the root: the lists, and the cases or the folder that holds them
    with claimed(root, settings, (*lists, Path(facts.file.format("*")).parts[0])):
        for number, name in enumerate(progress(names, desc="cases", disable=None), 1):
            write_case(
                facts.path(root, name),
                *draw_case(recipe, np.random.default_rng([seed, number]), size),
            )
        ordered = iter(names)
        write_lists(
            root, {file: [next(ordered) for _ in range(count)] for file, count in lists.items()}
        )
