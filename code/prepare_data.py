"""Turn raw scans into the files that training reads: the downloads of five public data sets, or your own in nnU-Net's raw layout.

    python code/prepare_data.py --dataset ACDC --source DOWNLOAD --root_path OUT
    python code/prepare_data.py --dataset own --source MY_DATA --root_path OUT

Reads NIfTI, NRRD, MHA and DICOM series. What each data set's preparation computes is told in docs/data.md; each file says of which scan
it was made. Stopped by Ctrl-C or killed, the same command continues; finished files are kept. A case that cannot be prepared is named
at the end (exit status 2), the others are there.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from commands.prepare import prepare
from utils.cli import run

if __name__ == "__main__":
    run(lambda argv: prepare(argv, description=__doc__))
