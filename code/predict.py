"""Predict scans with a trained network, each in its own geometry.

    python code/predict.py --checkpoint RUN --input SCANS --output PREDICTIONS
    python code/predict.py --checkpoint A.pth B.pth --tta mirror --input scan.nii.gz --output OUT

RUN is a run's folder, whose best checkpoint is used. A checkpoint holds everything that prediction
needs; a published one needs --dataset too. Reads NIfTI, NRRD, MHA and DICOM series, and PNG
pictures for 2-D networks. A prediction has the shape, the affine and the qform and sform of its
scan, and the label values of the training data.

Finished predictions are kept, so the same command continues. predict.json has the seconds of each
scan, and the ml of each class. A scan that cannot be predicted is named at the end (exit status 2);
the others are predicted.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import fewlabels
from commands.predict_settings import PredictSettings
from utils.cli import parse, run


def main(argv: Sequence[str]) -> int:
    """Predict the scans that the flags name; return 2 if one could not be predicted, else 0."""
    settings = parse(PredictSettings, argv, description=__doc__)
    result = fewlabels.predict(**vars(settings))
    return 2 if result.failed else 0


if __name__ == "__main__":
    run(main)
