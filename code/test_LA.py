"""Test an LA checkpoint, ours or a published one, on the 20 test scans: Dice, Jaccard, HD95, ASD.

    python code/test_LA.py --labelnum 4

Tests code/model/BCP/LA_BCP_<labelnum>_labeled/self_train/VNet_best_model.pth, the place where training leaves its best checkpoint and
where a published one can be put, and beside it the last checkpoint, because the best one was chosen on these very scans; --checkpoint
names another file. On a CPU larger steps of the sliding window save hours: --stride 56 56 40.
The largest component of a prediction is kept alone; --nms 0 keeps all. --detail 1 prints each case.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from commands.test import evaluate
from datasets.la import DATASET
from utils.cli import run

if __name__ == "__main__":
    run(lambda argv: evaluate(DATASET, argv, description=__doc__))
