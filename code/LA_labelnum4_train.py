"""LA with 4 labelled scans of 80: edge-guided V-Net, copy-paste pre-training, two teachers.

    python code/LA_labelnum4_train.py --root_path DATA

Protocol: patches 112x112x80, batch 4 + 4, 2 000 + 15 000 iterations, seed 1337. The best checkpoint
is selected on test.list, because the data set has no validation list (--select val uses one of
yours). It is made for one GPU: the tensors of a step need less than 4 GiB. Short runs on a CPU are
in docs/results/la.md; the full protocol was not run here.

Baselines and ablations: --method bcp, --method supervised, --egm none, --mask fixed, --teachers ema
(docs/training.md). The same command resumes an interrupted run. Test with code/test_LA.py
--labelnum 4.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import fewlabels
from commands.train_flags import configs_from_flags
from datasets.la import DATASET
from utils.cli import run

DEFAULTS = DATASET.script_defaults(4)


def main(argv: Sequence[str]) -> None:
    """Train with the numbers above, changed by flags."""
    for config in configs_from_flags(DATASET, argv, DEFAULTS, description=__doc__):
        fewlabels.train(config, dataset=DATASET)


if __name__ == "__main__":
    run(main)
