"""Score anybody's predictions: Dice, Jaccard, HD95, ASD, in both conventions, in voxels and mm.

    python code/evaluate.py --predictions PREDICTIONS --labels LABELS --output SCORES

Takes folders of NIfTI, NRRD or MHA label maps whose files have the same names, nnU-Net's among them. Writes metrics.csv and summary.json,
which code/compare.py reads. What does not fit is one line each (exit status 2), and then nothing is written.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from commands.evaluate import score
from utils.cli import run

if __name__ == "__main__":
    run(lambda argv: score(argv, description=__doc__))
