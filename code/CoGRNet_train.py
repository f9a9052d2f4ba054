"""CoGRNet: coarse labels from two annotated slices per volume, then copy-paste in a focus area.

    python code/CoGRNet_register.py --dataset LA --root_path DATA
    python code/CoGRNet_train.py --dataset LA --root_path DATA

Protocol: 5 labelled volumes, patches 112x112x80 (KiTS19 128x128x64, LiTS 176x176x64), batch 4 + 4,
1 001 + 5 001 iterations, where the published code stops (--loop_lengths published_text: 2 000 + 10
000, as the paper states), seed 1337. The best checkpoint is selected on the test list, because
there is no validation list (--select val uses one of yours). It is made for one GPU. Short runs on
a CPU are in docs/results/cogrnet.md; the full protocol was not run here.

Baselines: --labels dense, --method supervised (only coarse labels), --method pseudo_label (no
copy-paste), --focus off. The same command resumes an interrupted run. Test with
code/test_CoGRNet.py --dataset LA.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import fewlabels
from commands.any_dataset import chosen_dataset
from commands.train_flags import configs_from_flags
from utils.cli import run


def main(argv: Sequence[str]) -> None:
    """Train on the data set that the flags name."""
    dataset = chosen_dataset(argv, "TWO_SLICES", default="LA")
    for config in configs_from_flags(dataset, argv, description=__doc__, any_dataset=True):
        fewlabels.train(config, dataset=dataset)


if __name__ == "__main__":
    run(main)
