"""Write the page of one tested run: results, curves, and the worst, median and best case.

    python code/report.py --labelnum 3 --output report
    python code/report.py --run RUN --output report

Needs what the test script writes. code/compare.py puts several runs on such a page.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import fewlabels
from commands.compare import ReportSettings
from utils.cli import parse, run


def main(argv: Sequence[str]) -> None:
    """Write the page of the run that the flags name."""
    settings = parse(ReportSettings, argv, description=__doc__)
    fewlabels.report(**vars(settings))


if __name__ == "__main__":
    run(main)
