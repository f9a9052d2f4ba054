"""Test an LA checkpoint, ours or a published one: Dice, Jaccard, HD95, ASD of 20 scans.

    python code/test_LA.py --labelnum 4

Tests code/model/BCP/LA_BCP_<labelnum>_labeled/self_train/VNet_best_model.pth, where training writes
its best checkpoint and a published one can be copied. It also tests the last checkpoint, because
the best one was selected on these very scans. --checkpoint names another file.

On a CPU, larger steps of the sliding window save hours: --stride 56 56 40. Only the largest
component of a prediction is kept; --nms 0 keeps all. --detail 1 prints each case.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import fewlabels
from commands.test import settings_from_flags
from datasets.la import DATASET
from utils.cli import run


def main(argv: Sequence[str]) -> None:
    """Test the checkpoint that the flags name."""
    settings = settings_from_flags(DATASET, argv, description=__doc__)
    fewlabels.test(settings, dataset=DATASET)


if __name__ == "__main__":
    run(main)
