"""Test an ACDC checkpoint, ours or a published one: Dice, Jaccard, HD95, ASD of 40 volumes.

    python code/test_ACDC.py --labelnum 3

Tests code/model/BCP/ACDC_BCP_<labelnum>_labeled/self_train/unet_best_model.pth. Training writes its
best checkpoint there, and a published one can be copied there. --checkpoint names another file.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from commands.test import evaluate
from datasets.acdc import DATASET
from utils.cli import run

if __name__ == "__main__":
    run(lambda argv: evaluate(DATASET, argv, description=__doc__))
