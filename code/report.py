"""Write the page of one tested run: results, curves, and the worst, median and best case.

    python code/report.py --labelnum 3 --output report
    python code/report.py --run RUN --output report

Needs what the test script writes. code/compare.py puts several runs on such a page.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from commands.compare import report
from utils.cli import run

if __name__ == "__main__":
    run(lambda argv: report(argv, description=__doc__))
