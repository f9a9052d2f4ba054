"""What the data sets of one method do differently: the Dice, its share in the loss, the pseudo label, and who is pasted into whom."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from utils.losses import DiceCE, DiceLoss, dice_loss_2d
from utils.pseudo_label import class_pseudo_label


@dataclass(frozen=True)
class Objective:
    """`unlabelled_outside`: for the first and the second mixed image, whether its outside is the unlabelled image."""

    dice: DiceLoss
    dice_share: float
    pseudo_label: Callable[[Tensor], Tensor]
    unlabelled_outside: tuple[bool, bool]

    def scalars(self, parts: DiceCE) -> dict[str, Tensor]:
        """The loss and its two parts, as the loop logs them."""
        loss = self.dice_share * parts.dice + (1 - self.dice_share) * parts.ce
        return {"loss": loss, "loss_dice": parts.dice, "loss_ce": parts.ce}


ACDC = Objective(dice_loss_2d, dice_share=0.5, pseudo_label=class_pseudo_label, unlabelled_outside=(True, False))
