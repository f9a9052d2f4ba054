"""Check a data set before training: raw scans in nnU-Net's layout, or prepared data.

    python code/check_data.py --root_path MY_DATA
    python code/check_data.py --root_path OUT --pictures

Every scan and label is read. Errors would stop preparation or training, or make training learn
something wrong (a scan in two splits, the same image twice). Warnings are for you to look at, such
as labels that fit better when flipped. The program prints a table and writes check.json; --pictures
draws every case. The exit status is 2 if there is an error. docs/data.md lists the checks.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from commands import check
from commands.check import CheckSettings
from utils.cli import parse, run


def main(argv: Sequence[str]) -> int:
    """Check the data that the flags name; return 2 if there is an error, else 0."""
    settings = parse(CheckSettings, argv, description=__doc__)
    result = check.run(settings)  # as fewlabels.check, but neither it nor its processes load torch
    return 2 if result.errors else 0


if __name__ == "__main__":
    run(main)
