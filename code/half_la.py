"""Write LA scans at half resolution, so that a patch that a CPU can afford sees as much of the heart as the published one.

    python code/half_la.py --root_path data_split/LA --dest half_la --validation 4

Blocks of 2x2x2 voxels become one: the image's mean (z-scored again), the label where at least half of them are. The last `validation`
cases of train.list become a val.list. What short runs on the CPU are measured on (docs/results/la.md, docs/results/cogrnet.md).
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from programs.half_la import halve
from utils.cli import run

if __name__ == "__main__":
    run(lambda: halve(description=__doc__))
