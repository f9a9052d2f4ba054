"""Score predictions of any program: Dice, HD95, NSD ... in two conventions, voxels and mm.

    python code/evaluate.py --predictions PREDICTIONS --labels LABELS --output SCORES

Takes folders of NIfTI, NRRD or MHA label maps whose files have the same names, such as nnU-Net's.
Writes metrics.csv and summary.json, which code/compare.py reads. If files do not fit, one line
names each of them, nothing is written, and the exit status is 2.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import fewlabels
from commands.evaluate import ScoringSettings
from utils.cli import parse, run


def main(argv: Sequence[str]) -> None:
    """Score the predictions that the flags name."""
    settings = parse(ScoringSettings, argv, description=__doc__)
    fewlabels.evaluate(**vars(settings))


if __name__ == "__main__":
    run(main)
