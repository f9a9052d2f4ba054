"""Train, test and compare a table of runs: methods x numbers of labelled cases x folds x seeds.

    python code/benchmark.py --dataset ACDC --root_path DATA --methods bcp ua_mt \\
        --labelnums 3 7 --seeds 11 12 13 --jobs 2 --output TABLE -- --patch_size 128 128

Flags of training follow after --, for all runs; --method_flags has those of one method. Each run
has its own folder, log and record. The same command continues an interrupted table, and a failed
run does not stop the others. Writes leaderboard.json, leaderboard.md and index.html.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import fewlabels
from commands.benchmark import BenchmarkSettings, split_flags
from utils.cli import parse, run


def main(argv: Sequence[str]) -> None:
    """Run the table that the flags describe; a failed run is an error at the end."""
    own, flags = split_flags(argv)
    settings = parse(BenchmarkSettings, own, description=__doc__)
    fewlabels.benchmark(**vars(settings), flags=flags).check()


if __name__ == "__main__":
    run(main)
