"""Compare tested runs on one page: means and deviations over seeds, paired differences, curves, cases, pictures.

    python code/compare.py RUN [RUN ...] --output report

A RUN is the folder of a tested run, of its stage or predictions, or what code/evaluate.py wrote. Runs that differ in their seed alone are
one group; the other groups are held against the first. Writes index.html, which needs nothing else, and compare.json with its numbers.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from commands.compare import compare
from utils.cli import run

if __name__ == "__main__":
    run(lambda argv: compare(argv, description=__doc__))
