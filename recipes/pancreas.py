"""NIH Pancreas: CT of the abdomen (Roth et al., MICCAI 2015), in the public preparation of CoraNet."""

from functools import partial

from dataloaders.augment import VolumeAugmentation
from dataloaders.facts import DatasetFacts
from dataloaders.two_stream import FourStreamSampler
from dataloaders.volumes import percent_of_cases
from methods.copy_paste import Pasting
from recipes.page import REPOSITORY
from recipes.templates import patches, volumes
from utils.pseudo_label import class_pseudo_label

PAGE = volumes(
    facts=DatasetFacts(
        name="Pancreas",
        class_names=("background", "pancreas"),
        dims=3,
        file="data/{}.h5",
        train_list="train_lab.txt",
        unlabelled_list="train_unlab.txt",
        test_list="test.txt",
        axes="xyz",
    ),
    cases=percent_of_cases,
    sampler=lambda settings: FourStreamSampler,
    spatial=partial(
        patches,
        labelled=VolumeAugmentation((), spare=1, turn=False),
        unlabelled=VolumeAugmentation((), spare=1, turn=False, centre=True),
    ),
    pasting=Pasting(
        "whole",
        unlabelled_outside=(True, False),
        pseudo_label=partial(class_pseudo_label, connectivity=18),
        crossed=True,
    ),
    keeps_optimizer=True,
    numbers={
        "exp": "cutmix",
        "model": "VNet_pancreas",
        "labelnum": 20,
        "patch_size": (96, 96, 96),
        "batch_size": 8,
        "labeled_bs": 4,
        "unit": "epoch",
        "pre_iterations": 60,
        "max_iterations": 200,
        "val_every": 20,
        "optimizer": "adam",
        "base_lr": 1e-3,
        "weight_decay": 0.0,
        "pre_weight_decay": 0.0,
        "pre_losses": (("dice", 0.55), ("ce", 0.45)),
        "losses": (("dice", 0.42), ("ce", 0.58)),
        "box_end": 5 / 9,
        "static_start": 10,
        "static_step": 5,
        "static_range": (5, 20),
        "val_stride": (18, 18, 4),
        "select": "test",
    },
    methods={
        "bcp": {
            "pre_losses": (("dice", 0.5), ("ce", 0.5)),
            "losses": (("dice", 0.5), ("ce", 0.5)),
            "seed": 2020,
        }
    },
    stride=(16, 16, 4),
    test_numbers={"exp": "cutmix", "labelnum": 20, "model": "VNet_pancreas", "which": "both"},
    folder=lambda output_root, exp, labelnum: (
        (output_root or REPOSITORY / "pancreas" / "result") / exp
    ),
    best_name=lambda stage, model, labelnum: (
        f"best_ema_{labelnum}_{stage.removesuffix('_train')}.pth"
    ),
    published_pretraining="pretrain/best_ema{labelnum}_pre.pth",
    published_layout="net",
    module_prefix="always",
)
