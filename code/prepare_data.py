"""Turn raw scans into the files that training reads: public downloads, or your own data.

    python code/prepare_data.py --dataset ACDC --source DOWNLOAD --root_path OUT
    python code/prepare_data.py --dataset own --source MY_DATA --root_path OUT

Own data are in nnU-Net's raw layout. Reads NIfTI, NRRD, MHA and DICOM series. docs/data.md
describes what each preparation computes. Each prepared file names the scan it was made from.

After Ctrl-C or a kill, the same command continues; finished files are kept. A case that cannot be
prepared is named at the end (exit status 2); the others are prepared.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import fewlabels
from commands.prepare import PrepareSettings
from utils.cli import parse, run


def main(argv: Sequence[str]) -> int:
    """Prepare the scans that the flags name; return 2 if one could not be prepared, else 0."""
    settings = parse(PrepareSettings, argv, description=__doc__)
    result = fewlabels.prepare(**vars(settings))
    return 2 if result.failed else 0


if __name__ == "__main__":
    run(main)
