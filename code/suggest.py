"""Suggest which cases are worth annotating next, from predictions with uncertainty maps.

    python code/predict.py --checkpoint RUN --input SCANS --output PREDICTIONS --uncertainty entropy
    python code/suggest.py PREDICTIONS --count 3 --output suggestions

Writes suggest.json and suggest.csv, and for each case a folder with its image, its prediction to
start from and its uncertainty map, which napari, 3D Slicer and ITK-SNAP open. With --two_slices,
for CoGRNet, also a label map that marks two slices.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import fewlabels
from commands.suggest import SuggestSettings
from utils.cli import parse, run


def main(argv: Sequence[str]) -> None:
    """Suggest cases among the predictions that the flags name."""
    settings = parse(SuggestSettings, argv, description=__doc__)
    fewlabels.suggest(**vars(settings))


if __name__ == "__main__":
    run(main)
