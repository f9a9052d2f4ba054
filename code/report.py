"""Draw a run: worst, median and best test case beside their truth, training loss and validation Dice.

    python code/report.py --labelnum 3 --output report/run.png

Needs the predictions that code/test_ACDC.py writes.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from programs.report import report
from utils.cli import run

if __name__ == "__main__":
    run(lambda: report(description=__doc__))
