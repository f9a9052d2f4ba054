"""Test a checkpoint on any data set that has a page: Dice, Jaccard, HD95, ASD.

python code/test.py --dataset LA --exp mean_teacher --labelnum 4 --root_path DATA
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from programs.generic import test_any
from utils.cli import run

if __name__ == "__main__":
    run(lambda: test_any(description=__doc__))
