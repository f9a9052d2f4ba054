"""Test a checkpoint on any data set: Dice, Jaccard, HD95, ASD, ASSD, NSD.

    python code/test.py --dataset LA --root_path DATA
    python code/test.py --dataset LA --method mean_teacher --labelnum 4 --root_path DATA

Network and stage come from the run. Without --exp or --method, the published run is tested if it
exists, otherwise the only run of the data set. The choice is printed (docs/evaluation.md).
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from commands.any_dataset import test_any
from utils.cli import run

if __name__ == "__main__":
    run(lambda argv: test_any(argv, description=__doc__))
