"""Synthetic volumes in the published layouts of LA, Pancreas, KiTS19 and LiTS."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from dataloaders.dataset_info import DatasetInfo
from dataloaders.phantom.case_files import claimed, within, write_case, write_lists
from dataloaders.phantom.organs import RECIPES, draw_case
from utils.errors import UserError
from utils.progress import progress

# Fewest voxels along each axis: with fewer the thin parts of the organs would break up.
LEAST = {"x": 32, "y": 32, "z": 16}


def write_volume_phantom(
    info: DatasetInfo,
    root: str | Path,
    train: int = 20,
    test: int = 6,
    size: Sequence[int] | None = None,
    seed: int = 1337,
    labelled: int | None = None,
) -> None:
    """Write `train` + `test` cases below `root` in the layout of `info`, the training cases first.

    `size`: mean shape in voxels, in the axis order of the data set's arrays. `labelled` (only
    Pancreas): number of training cases in the list of labelled ones, by default 12 of 62; the
    others are in the list of unlabelled ones. Case i depends only on `seed`, i and `size`. Lists
    are written last, so a half-written folder has none; the same call may be repeated. Raises
    UserError if a number is out of range, or if the folder cannot be written or holds anything but
    a phantom with the same settings.
    """
    root = Path(root)
    recipe = RECIPES[info.name]
    shape = tuple(size or recipe.size)
    _check_shape(info, shape)
    within("train", train, least=1 + (info.unlabelled_list is not None), most=900)
    within("test", test, least=1, most=900)
    within("seed", seed, least=0, most=2**63)
    settings = {
        "phantom": info.name,
        "train": train,
        "test": test,
        "size": list(shape),
        "seed": seed,
    }
    lists = {info.train_list: train, info.test_list: test}
    if info.unlabelled_list is not None:
        if labelled is None:
            labelled = max(1, round(train * 12 / 62))
        within("labelled", labelled, least=1, most=train - 1)
        lists = {
            info.train_list: labelled,
            info.unlabelled_list: train - labelled,
            info.test_list: test,
        }
        settings["labelled"] = labelled
    elif labelled is not None:
        raise UserError(
            f"--labelled does not apply to {info.name}, which has one list of training cases: "
            f"--labelnum of the training counts the labelled ones; omit it"
        )
    names = [recipe.case.format(number) for number in range(1, train + test + 1)]
    # the files at the root: the lists, and the cases or the folder that contains them
    cases = Path(info.file.format("*")).parts[0]
    with claimed(root, settings, taken=(*lists, cases)):
        for number, name in enumerate(progress(names, desc="cases", disable=None), 1):
            rng = np.random.default_rng([seed, number])
            image, label, spacing = draw_case(recipe, rng, size=shape)
            write_case(info.path(root, name), image, label=label, spacing=spacing)
        write_lists(root, _split(names, lists))


def _check_shape(info: DatasetInfo, shape: Sequence[int]) -> None:
    """Raise UserError unless `shape` is three sizes that the organs can be drawn with."""
    if len(shape) != 3:
        raise UserError(
            f"--size takes three numbers for {info.name}, the voxels along "
            f"{', '.join(info.axes)}, not {len(shape)}"
        )
    for axis, voxels in zip(info.axes, shape, strict=True):
        within(f"size ({axis})", voxels, least=LEAST[axis], most=512)


def _split(names: Sequence[str], counts: Mapping[str, int]) -> dict[str, Sequence[str]]:
    """Distribute the names over the lists, in order; `counts`: number of names of each list."""
    lists = {}
    start = 0
    for file, count in counts.items():
        lists[file] = names[start : start + count]
        start += count
    return lists
