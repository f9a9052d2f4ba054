"""Compare tested runs on one page: means over seeds, paired differences, curves, cases, pictures.

    python code/compare.py RUN [RUN ...] --output report

A RUN is the folder of a tested run, of its stage or predictions, or what code/evaluate.py wrote.
Runs that differ only in their seed are one group. The other groups are compared with the first.
Writes index.html, which needs no other file, and compare.json with its numbers.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from commands.compare import compare
from utils.cli import run

if __name__ == "__main__":
    run(lambda argv: compare(argv, description=__doc__))
