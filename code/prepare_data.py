"""Turn raw scans into the files that training reads: public downloads, or your own data.

    python code/prepare_data.py --dataset ACDC --source DOWNLOAD --root_path OUT
    python code/prepare_data.py --dataset own --source MY_DATA --root_path OUT

Own data are in nnU-Net's raw layout. Reads NIfTI, NRRD, MHA and DICOM series. docs/data.md
describes what each preparation computes. Each prepared file names the scan it was made from.

After Ctrl-C or a kill, the same command continues; finished files are kept. A case that cannot be
prepared is named at the end (exit status 2); the others are prepared.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from commands.prepare import prepare
from utils.cli import run

if __name__ == "__main__":
    run(lambda argv: prepare(argv, description=__doc__))
