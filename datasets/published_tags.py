"""Names that published codes give the scalars in TensorBoard, for `--tags published`.

The table in docs/fidelity.md shows them next to ours, with those that we do not write.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from methods.base import class_scalar

EACH_CLASS = "_{class}"
"""End of our tag of a scalar that every foreground class has."""


@dataclass(frozen=True)
class PublishedTags:
    """The tags of a published code by our tags, in pre-training and in self-training.

    `{number}` in a published tag is the number of the class. A published tag of one class without
    it is only used where there is one foreground class.
    """

    pretraining: Mapping[str, str]
    selftraining: Mapping[str, str]

    def of_stage(self, pretraining: bool, class_names: Sequence[str]) -> dict[str, str]:
        """Return published tags by ours for a stage; `class_names` start with the background."""
        tags = self.selftraining
        if pretraining:
            tags = self.pretraining
        by_ours: dict[str, str] = {}
        for ours, published in tags.items():
            if ours.endswith(EACH_CLASS):
                scalar = ours.removesuffix(EACH_CLASS)
                by_ours.update(_of_classes(scalar, published, class_names))
            else:
                by_ours[ours] = published
        return by_ours


def _of_classes(scalar: str, published: str, class_names: Sequence[str]) -> dict[str, str]:
    """Return the published tag of a scalar of each foreground class, by our tag."""
    if "{number}" not in published and len(class_names) > 2:
        return {}
    tags: dict[str, str] = {}
    for number, name in enumerate(class_names[1:], start=1):
        tags[class_scalar(scalar, name)] = published.format(number=number)
    return tags


_ACDC = {
    "train/loss": "info/total_loss",
    "train/loss_dice": "info/mix_dice",
    "train/loss_ce": "info/mix_ce",
    "train/consistency_weight": "info/consistency_weight",
    "validation/dice": "info/val_mean_dice",
    "validation/dice_{class}": "info/val_{number}_dice",
    "validation/hd95_voxel_{class}": "info/val_{number}_hd95",
}
_LA_VALIDATION = {
    "validation/dice": "4_Var_dice/Dice",
    "validation/best_dice": "4_Var_dice/Best_dice",
}
_LA_PRETRAINING = {
    "train/loss": "pre/loss_all",
    "train/loss_dice": "pre/loss_dice",
    "train/loss_ce": "pre/loss_ce",
    **_LA_VALIDATION,
}
_LA_SELFTRAINING = {
    "train/loss": "Self/loss_all",
    "train/consistency_weight": "Self/consistency",
    **_LA_VALIDATION,
}
_COGRNET_SELFTRAINING = {
    **_LA_SELFTRAINING,
    "validation/jaccard_{class}": "4_Var_dice/Jaccard",
    "validation/hd95_voxel_{class}": "4_Var_dice/Hausdorff",
    "validation/asd_voxel_{class}": "4_Var_dice/Average_surface_distance",
}
_PANCREAS_PRETRAINING = {
    "train/loss": "pretrain/loss_all",
    "train/loss_dice": "pretrain/dice_loss",
    "train/loss_ce": "pretrain/ce_loss",
    "validation/dice": "test_dice",
}
_PANCREAS_SELFTRAINING = {
    "train/loss": "pretrain/loss_all",
    "validation/dice": "val_dice",
}
ACDC_TAGS = PublishedTags(_ACDC, _ACDC)
LA_TAGS = PublishedTags(_LA_PRETRAINING, _LA_SELFTRAINING)
COGRNET_TAGS = PublishedTags(_LA_PRETRAINING, _COGRNET_SELFTRAINING)
PANCREAS_TAGS = PublishedTags(_PANCREAS_PRETRAINING, _PANCREAS_SELFTRAINING)
