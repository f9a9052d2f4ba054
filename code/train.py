"""Train on any data set, a public one or your own, by any method.

    python code/train.py --dataset LA --method mean_teacher --labelnum 4 --root_path DATA
    python code/train.py --root_path MY_DATA --method bcp --exp mine --seeds 1337 1338

Defaults are those of the data set (datasets/<data set>.py), changed by the method and by flags.
With --dataset, --method and --model, --help shows the options of these. docs/extending.md describes
how to write a data set, a method or a network. The same command resumes an interrupted run. Test
with code/test.py.
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
