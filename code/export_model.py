"""Write the network of a checkpoint for use without this repository.

    python code/export_model.py code/model/BCP/ACDC_BCP_3_labeled --format onnx

onnx needs the packages onnx and onnxruntime. The file also holds classes, label values, patch size
and how images are prepared (docs/prediction.md, "Export"). The exported network is compared with
the original one before the file is written.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import fewlabels
from commands.export_model import ExportModelSettings
from utils.cli import parse, run


def main(argv: Sequence[str]) -> None:
    """Export the network that the flags name."""
    settings = parse(ExportModelSettings, argv, description=__doc__)
    fewlabels.export_model(**vars(settings))


if __name__ == "__main__":
    run(main)
