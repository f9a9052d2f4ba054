"""NIH Pancreas with 20 % (12 of 62 scans) labelled: edge-guided V-Net, copy-paste, two teachers.

    python pancreas/pancreas_labelnum20_train.py --root_path DATA

Replace python by torchrun --nproc_per_node 2 to use two GPUs; --batch_size counts the images of all
processes together.

Protocol: patches 96x96x96, batch 2 of each of four streams, 60 + 200 epochs (of 30 and 25 steps) of
Adam, seed 1337. The best checkpoint is selected on test.txt, because the data set has no validation
list (--select val uses one of yours). It is made for one GPU: the tensors of a step need less than
4 GiB. It was not run here, because the data are not available.

The same command resumes an interrupted run. Test with pancreas/test_pancreas.py.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import fewlabels
from commands.train_flags import configs_from_flags
from datasets.pancreas import DATASET
from utils.cli import run

DEFAULTS = DATASET.script_defaults(20)


def main(argv: Sequence[str]) -> None:
    """Train with the numbers above, changed by flags."""
    for config in configs_from_flags(DATASET, argv, DEFAULTS, description=__doc__):
        fewlabels.train(config, dataset=DATASET)


if __name__ == "__main__":
    run(main)
