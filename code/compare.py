"""Compare tested runs on one page: means over seeds, paired differences, curves, cases, pictures.

    python code/compare.py RUN [RUN ...] --output report

A RUN is the folder of a tested run, of its stage or predictions, or what code/evaluate.py wrote.
Runs that differ only in their seed are one group. The other groups are compared with the first.
Writes index.html, which needs no other file, and compare.json with its numbers.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import fewlabels
from commands.compare import CompareSettings
from utils.cli import parse, run


def main(argv: Sequence[str]) -> None:
    """Compare the runs that the flags name."""
    settings = parse(CompareSettings, argv, description=__doc__)
    fewlabels.compare(**vars(settings))


if __name__ == "__main__":
    run(main)
