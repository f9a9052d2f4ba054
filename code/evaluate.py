"""Score predictions of any program: Dice, HD95, NSD ... in two conventions, voxels and mm.

    python code/evaluate.py --predictions PREDICTIONS --labels LABELS --output SCORES

Takes folders of NIfTI, NRRD or MHA label maps whose files have the same names, such as nnU-Net's.
Writes metrics.csv and summary.json, which code/compare.py reads. If files do not fit, each is one
line, nothing is written, and the exit status is 2.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from commands.evaluate import score
from utils.cli import run

if __name__ == "__main__":
    run(lambda argv: score(argv, description=__doc__))
