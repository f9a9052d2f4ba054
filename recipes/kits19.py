"""KiTS19: CT of kidneys with tumours (Heller et al., 2019), in CoGRNet's preparation."""

from dataloaders.facts import DatasetFacts
from recipes.templates import two_slices

PAGE = TWO_SLICES = two_slices(
    facts=DatasetFacts(
        name="KiTS19",
        class_names=("background", "kidney and tumour"),
        dims=3,
        zscore=True,
        file="{}.h5",
        list_suffix="kits",
        train_list="train.txt",
        test_list="test.txt",
        file_classes=3,
        foreground=(1, 2),
        planes=((0, 34), (1, 119)),
    ),
    patch_size=(128, 128, 64),
)
