"""ACDC: cine MR of the heart, short-axis slices, three structures (Bernard et al., TMI 2018), in the public preparation of BCP."""

from dataloaders.facts import DatasetFacts
from recipes.templates import slices

PAGE = slices(
    facts=DatasetFacts(
        name="ACDC",
        class_names=("background", "right ventricle", "myocardium", "left ventricle"),
        dims=2,
        file="data/{}.h5",
        slice_file="data/slices/{}.h5",
        train_list="train_slices.list",
        test_list="test.list",
    ),
    numbers={
        "model": "unet",
        "patch_size": (256, 256),
        "batch_size": 24,
        "labeled_bs": 12,
        "pre_iterations": 10_000,
        "max_iterations": 30_000,
        "base_lr": 0.01,
        "weight_decay": 1e-4,
        "pre_weight_decay": 1e-4,
        "box_end": 1 / 3,
        "static_start": 1000,
        "static_step": 500,
        "static_range": (500, 2000),
        "select": "val",
    },
    methods={
        "bcp": {"dice_background": "masked"},
        "averaged_copy_paste": {
            "dice_background": "masked",
            "base_lr": 0.05,
        },  # docs/results/recipe.md
    },
    commands="ACDC",
    test_numbers={"model": "unet"},
)
