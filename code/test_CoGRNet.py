"""Test a CoGRNet checkpoint on the test volumes of LA, KiTS19 or LiTS: Dice, Jaccard, HD95, ASD.

    python code/test_CoGRNet.py --dataset LA

Tests code/model/CoGRNet/<data set>_CoGRNet_5_labeled/self_train/VNet_best_model.pth, where training
writes its best checkpoint and a published one can be copied. It also tests the last checkpoint,
because the best one was selected on these very volumes. --checkpoint names another file.

Empty predictions are counted, not skipped. On a CPU, larger steps of the sliding window save hours:
--stride 56 56 40.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from commands.any_dataset import test_two_slices
from utils.cli import run

if __name__ == "__main__":
    run(lambda argv: test_two_slices(argv, description=__doc__))
