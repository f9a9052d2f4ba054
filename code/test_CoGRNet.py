"""Test a CoGRNet checkpoint on the test volumes of LA, KiTS19 or LiTS: Dice, Jaccard, HD95, ASD.

    python code/test_CoGRNet.py --dataset LA

Tests code/model/CoGRNet/<data set>_CoGRNet_5_labeled/self_train/VNet_best_model.pth, where training
writes its best checkpoint and a published one can be copied. It also tests the last checkpoint,
because the best one was selected on these very volumes. --checkpoint names another file.

Empty predictions are counted, not skipped. On a CPU, larger steps of the sliding window save hours:
--stride 56 56 40.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import fewlabels
from commands.any_dataset import chosen_dataset
from commands.test import settings_from_flags
from utils.cli import run


def main(argv: Sequence[str]) -> None:
    """Test a checkpoint on the data set that the flags name."""
    dataset = chosen_dataset(argv, "TWO_SLICES", default="LA")
    settings = settings_from_flags(dataset, argv, description=__doc__, any_dataset=True)
    fewlabels.test(settings, dataset=dataset)


if __name__ == "__main__":
    run(main)
