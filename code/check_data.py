"""Look at a data set before hours of training: raw scans in nnU-Net's layout, or what prepare_data.py or somebody else prepared.

    python code/check_data.py --root_path MY_DATA
    python code/check_data.py --root_path OUT --pictures

Every scan and label is read. Errors are what preparing or training would stop at, or learn wrongly from (a scan in two splits, twice
the same image); warnings are what somebody should look at, such as labels that fit better flipped. A table is printed, check.json holds
it all, --pictures draws every case. Exit status 2 where there is an error, else 0; docs/data.md lists what is looked for.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from commands.check import check
from utils.cli import run

if __name__ == "__main__":
    run(lambda argv: check(argv, description=__doc__))
