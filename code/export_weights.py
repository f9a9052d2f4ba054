"""Write a checkpoint as the published code would have saved it, for published test scripts.

    python code/export_weights.py code/model/BCP/ACDC_BCP_3_labeled weights.pth

RUN is a run's folder, a stage's folder (pre_train: with the optimiser, to continue from) or a
checkpoint file. Published test scripts load with strict=False. They know none of the names in a
checkpoint of ours, so without the export they would test random weights.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import fewlabels
from commands.export import ExportSettings
from utils.cli import parse, run


def main(argv: Sequence[str]) -> None:
    """Export the checkpoint that the flags name."""
    settings = parse(ExportSettings, argv, description=__doc__)
    fewlabels.export(**vars(settings))


if __name__ == "__main__":
    run(main)
