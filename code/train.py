"""Train on any data set that has a page, or on a page's file of yours, by any method.

    python code/train.py --dataset LA --method mean_teacher --labelnum 4 --root_path DATA

Numbers are the page's (recipes/<data set>.py), changed by the method and by flags; --help names them for that data set, method and
network. docs/extending.md says how a page, a method or a network of your own is written. The same command resumes an interrupted run;
test with code/test.py.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import fewlabels
from commands.any_dataset import chosen_dataset
from commands.train_flags import configs_from_flags
from utils.cli import run


def main(argv: Sequence[str]) -> None:
    """Train on the data set that the flags name."""
    dataset = chosen_dataset(argv, "DATASET", published="train")
    for config in configs_from_flags(
        dataset, argv, description=__doc__, any_dataset=True, published=False
    ):
        fewlabels.train(config, dataset=dataset)


if __name__ == "__main__":
    run(main)
