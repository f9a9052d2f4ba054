"""NIH Pancreas, 20 % (12 of 62 scans) labelled: edge-guided V-Net, copy-paste pre-training, self-training by two teachers.

    python pancreas/pancreas_labelnum20_train.py --root_path DATA

or with torchrun --nproc_per_node 2 in the place of python; --batch_size counts the images of all processes together.
Protocol: patches 96x96x96, batch 2 of each of four streams, 60 + 200 epochs (of 30 and 25 steps) of Adam, seed 1337; the best checkpoint is
chosen on test.txt, because the data set has no validation list (--select val takes one of yours). Made for one GPU, where it needs some
7 GiB; it has not been run here, the data are not at hand.
The same command resumes an interrupted run; test with pancreas/test_pancreas.py.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from recipes.edge_guided import train
from recipes.tasks import PANCREAS_TASK
from training.settings import VolumeSettings
from utils.cli import run

RECIPE = VolumeSettings(
    exp="cutmix",
    model="VNet_pancreas",
    labelnum=20,
    patch_size=(96, 96, 96),
    batch_size=8,
    labeled_bs=4,
    unit="epoch",
    pre_iterations=60,
    max_iterations=200,
    optimizer="adam",
    base_lr=1e-3,
    pre_weight_decay=0.0,
    weight_decay=0.0,
    pre_dice_share=0.55,
    dice_share=0.42,
    ema_decay=0.99,
    box_end=5 / 9,
    static_start=10,
    static_step=5,
    static_range=(5, 20),
    u_weight=0.5,
    val_every=20,
    val_stride=(18, 18, 4),
    seed=1337,
)

if __name__ == "__main__":
    run(lambda: train(PANCREAS_TASK, RECIPE, description=__doc__))
