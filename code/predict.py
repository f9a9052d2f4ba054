"""Predict plain scans with a trained network, each in its own geometry.

    python code/predict.py --checkpoint RUN --input SCANS --output PREDICTIONS
    python code/predict.py --checkpoint A.pth B.pth --tta mirror --input scan.nii.gz --output PREDICTIONS

RUN is a run's folder, whose best checkpoint is taken. The checkpoint alone says what is to be done; a published one needs --dataset too. Reads NIfTI, NRRD, MHA and DICOM series, for 2-D
networks PNG pictures. A prediction has the shape, the affine and the qform and sform of its scan, and the label values of the training
data. Finished predictions are kept, so the same command continues. predict.json says seconds, and ml of each class. A scan that cannot
be predicted is named at the end (exit status 2), the others are there.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from commands.predict import predict
from utils.cli import run

if __name__ == "__main__":
    run(lambda argv: predict(argv, description=__doc__))
