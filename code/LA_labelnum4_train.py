"""LA, 4 labelled scans of 80: edge-guided V-Net, copy-paste pre-training, self-training by two teachers.

    python code/LA_labelnum4_train.py --root_path DATA

Protocol: patches 112x112x80, batch 4 + 4, 2 000 + 15 000 iterations, seed 1337; the best checkpoint is chosen on test.list, because the
data set has no validation list (--select val takes one of yours). Made for one GPU, where it needs some 7 GiB; it has not been run
here in full. What short runs on the CPU gave is in docs/results/la.md.
Baselines and ablations: --method bcp, --method supervised, --egm none, --mask fixed, --teachers ema (README).
The same command resumes an interrupted run; test with code/test_LA.py --labelnum 4.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from recipes.edge_guided import train
from recipes.tasks import LA_TASK
from training.settings import VolumeSettings
from utils.cli import run

RECIPE = VolumeSettings(
    labelnum=4,
    patch_size=(112, 112, 80),
    batch_size=8,
    labeled_bs=4,
    pre_iterations=2_000,
    max_iterations=15_000,
    base_lr=0.01,
    lr_drop_every=5_000,
    pre_weight_decay=1e-3,
    weight_decay=1e-4,
    ema_decay=0.99,
    box_end=1 / 2,
    static_start=1000,
    static_step=500,
    static_range=(500, 2000),
    u_weight=0.5,
    val_every=200,
    val_stride=(18, 18, 4),
    seed=1337,
)

if __name__ == "__main__":
    run(lambda: train(LA_TASK, RECIPE, description=__doc__))
