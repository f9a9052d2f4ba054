"""Make the leaderboard of a benchmark again from its records.

    python code/leaderboard.py TABLE/records --output leaderboard

Records hold the scores of every case, so no data and no checkpoints are needed. Add a method by
naming the records of another benchmark with the same protocol too. Writes leaderboard.json,
leaderboard.md and index.html.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from commands.leaderboard import leaderboard_of
from utils.cli import run

if __name__ == "__main__":
    run(lambda argv: leaderboard_of(argv, description=__doc__))
