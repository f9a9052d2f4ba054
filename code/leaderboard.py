"""Make the leaderboard of a benchmark again from its records.

    python code/leaderboard.py TABLE/records --output leaderboard

Records have the scores of every case, so no data and no checkpoints are needed. To add a method,
also name the records of another benchmark with the same protocol. Writes leaderboard.json,
leaderboard.md and index.html.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import fewlabels
from commands.leaderboard import LeaderboardSettings
from utils.cli import parse, run


def main(argv: Sequence[str]) -> None:
    """Make the leaderboard of the records that the flags name."""
    settings = parse(LeaderboardSettings, argv, description=__doc__)
    fewlabels.leaderboard(**vars(settings))


if __name__ == "__main__":
    run(main)
