"""LiTS: CT of the liver (Bilic et al., 2023), in CoGRNet's preparation."""

from dataloaders.facts import DatasetFacts
from recipes.templates import two_slices

PAGE = TWO_SLICES = two_slices(
    facts=DatasetFacts(
        name="LiTS",
        class_names=("background", "liver"),
        dims=3,
        zscore=True,
        file="{}.h5",
        list_suffix="lits",
        train_list="train.txt",
        test_list="test.txt",
        file_classes=3,
        foreground=(1,),
        planes=((0, 45), (1, 75)),
    ),
    patch_size=(176, 176, 64),
)
