"""Test a pancreas checkpoint, ours or a published one: Dice, Jaccard, HD95, ASD of 18 scans.

    python pancreas/test_pancreas.py

Tests the best checkpoint of pancreas/result/cutmix_20_labeled, where training writes it, or a
published one, pancreas/result/cutmix/self_train/best_ema_20_self.pth. It also tests the last
checkpoint, because the best one was selected on these very scans. --checkpoint names another file.

On a CPU, larger steps of the sliding window save hours: --stride 48 48 48.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import fewlabels
from commands.test import settings_from_flags
from datasets.pancreas import DATASET
from utils.cli import run


def main(argv: Sequence[str]) -> None:
    """Test the checkpoint that the flags name."""
    settings = settings_from_flags(DATASET, argv, description=__doc__)
    fewlabels.test(settings, dataset=DATASET)


if __name__ == "__main__":
    run(main)
