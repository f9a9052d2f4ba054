"""Check a data set before training: raw scans in nnU-Net's layout, or prepared data.

    python code/check_data.py --root_path MY_DATA
    python code/check_data.py --root_path OUT --pictures

Every scan and label is read. Errors are what would stop preparation or training, or what training
would learn wrongly from (a scan in two splits, the same image twice). Warnings are what somebody
should look at, such as labels that fit better flipped. It prints a table and writes check.json;
--pictures draws every case. The exit status is 2 if there is an error. docs/data.md lists the
checks.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from commands.check import check
from utils.cli import run

if __name__ == "__main__":
    run(lambda argv: check(argv, description=__doc__))
