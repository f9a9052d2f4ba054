"""Test a checkpoint on any data set: Dice, Jaccard, HD95, ASD, ASSD, NSD.

    python code/test.py --dataset LA --root_path DATA
    python code/test.py --dataset LA --method mean_teacher --labelnum 4 --root_path DATA

Network and stage come from the run. Without --exp or --method, the published run is tested if it
exists, otherwise the only run of the data set. The choice is printed (docs/evaluation.md).
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import fewlabels
from commands.any_dataset import tested_dataset
from commands.test import settings_from_flags
from utils.cli import run


def main(argv: Sequence[str]) -> None:
    """Test a checkpoint on the data set that the flags name."""
    dataset = tested_dataset(argv)
    settings = settings_from_flags(dataset, argv, description=__doc__, any_dataset=True)
    fewlabels.test(settings, dataset=dataset)


if __name__ == "__main__":
    run(main)
