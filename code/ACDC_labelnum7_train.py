"""ACDC with 7 labelled patients (136 slices): edge-guided U-Net, copy-paste, two teachers.

    python code/ACDC_labelnum7_train.py --root_path DATA

Protocol: 256x256, batch 12 + 12, 10 000 + 30 000 iterations, seed 1337. It is made for one GPU. On
two CPU cores it takes about 60 hours (6.7 s per iteration, 3.2 GiB). Short runs with
3 labelled patients are in docs/results/acdc.md; the full protocol was not run here.

Baselines and ablations: --method bcp, --method supervised, --egm none, --mask fixed, --teachers ema
(docs/training.md). The same command resumes an interrupted run. Test with code/test_ACDC.py
--labelnum 7.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import fewlabels
from commands.train_flags import configs_from_flags
from datasets.acdc import DATASET
from utils.cli import run

DEFAULTS = DATASET.script_defaults(7)


def main(argv: Sequence[str]) -> None:
    """Train with the numbers above, changed by flags."""
    for config in configs_from_flags(DATASET, argv, DEFAULTS, description=__doc__):
        fewlabels.train(config, dataset=DATASET)


if __name__ == "__main__":
    run(main)
