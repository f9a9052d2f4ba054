"""Test an ACDC checkpoint, ours or a published one: Dice, Jaccard, HD95, ASD of 40 volumes.

    python code/test_ACDC.py --labelnum 3

Tests code/model/BCP/ACDC_BCP_<labelnum>_labeled/self_train/unet_best_model.pth. Training writes its
best checkpoint there, and a published one can be copied there. --checkpoint names another file.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import fewlabels
from commands.test import settings_from_flags
from datasets.acdc import DATASET
from utils.cli import run


def main(argv: Sequence[str]) -> None:
    """Test the checkpoint that the flags name."""
    settings = settings_from_flags(DATASET, argv, description=__doc__)
    fewlabels.test(settings, dataset=DATASET)


if __name__ == "__main__":
    run(main)
