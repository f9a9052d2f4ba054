"""LA: MR of the left atrium (2018 atrial segmentation challenge), in the public preparation of UA-MT."""

from dataclasses import dataclass

from dataloaders.facts import DatasetFacts
from recipes.templates import two_slices, volumes

FACTS = DatasetFacts(
    name="LA",
    class_names=("background", "left atrium"),
    dims=3,
    file="2018LA_Seg_Training Set/{}/mri_norm2.h5",
    flat_file="{}.h5",
    list_suffix="la",
    train_list="train.list",
    test_list="test.list",
    axes="xyz",
    planes=((2, 43), (1, None)),
)


@dataclass(frozen=True)
class TestOptions:
    """Settings of the test on LA."""

    nms: bool = True
    """Keep only the largest component of a prediction, as the published test does (published flag; 0 or 1 may follow)."""


PAGE = volumes(
    facts=FACTS,
    numbers={
        "model": "VNet",
        "patch_size": (112, 112, 80),
        "batch_size": 8,
        "labeled_bs": 4,
        "pre_iterations": 2_000,
        "max_iterations": 15_000,
        "base_lr": 0.01,
        "lr_schedule": "step",
        "lr_drop_every": 5_000,
        "weight_decay": 1e-4,
        "pre_weight_decay": 1e-3,
        "box_end": 1 / 2,
        "static_start": 1000,
        "static_step": 500,
        "static_range": (500, 2000),
        "val_stride": (18, 18, 4),
        "select": "test",
    },
    methods={"bcp": {"pre_weight_decay": 1e-4, "lr_drop_every": 2_500}},
    rounded_best=("edge_guided", "bcp"),
    connectivity=26,
    test_options=(TestOptions,),
    commands="LA",
    test_numbers={"labelnum": 4, "model": "VNet", "which": "both"},
    module_prefix="edge_guided",  # BCP's own LA code has no DataParallel
)
TWO_SLICES = two_slices(facts=FACTS, patch_size=(112, 112, 80))
