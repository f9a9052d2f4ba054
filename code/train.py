"""Train on any data set that has a page, or on a page's file of yours, by any method.

    python code/train.py --dataset LA --method mean_teacher --labelnum 4 --root_path DATA

Numbers are the page's (recipes/<data set>.py), changed by the method and by flags; --help names them for that data set, method and
network. docs/extending.md says how a page, a method or a network of your own is written. The same command resumes an interrupted run;
test with code/test.py.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from commands.any_dataset import train_any
from utils.cli import run

if __name__ == "__main__":
    run(lambda: train_any(description=__doc__))
