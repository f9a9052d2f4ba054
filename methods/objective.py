"""What the data sets of one method do differently: the losses, the pseudo label, and who is pasted into whom."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import Tensor

from utils.losses import DiceCE, DiceLoss, dice_loss_2d, dice_loss_3d
from utils.pseudo_label import class_pseudo_label


@dataclass(frozen=True)
class Objective:
    """`pretrain_loss`: the mix loss of both parts of a pre-training image, or one loss of the whole against its mixed label.
    `unlabelled_outside`: for the first and the second mixed image, whether its outside is the unlabelled image.
    `crossed`: whether half a of the unlabelled images meets half b of the labelled ones, and b meets a.
    """

    dice: DiceLoss
    pretrain_loss: Literal["mix", "whole"]
    pseudo_label: Callable[[Tensor], Tensor]
    unlabelled_outside: tuple[bool, bool]
    crossed: bool = False
    dice_share: float = 0.5
    pretrain_dice_share: float = 0.5

    def scalars(self, parts: DiceCE, pretraining: bool = False) -> dict[str, Tensor]:
        """The loss and its two parts, as the loop logs them."""
        share = self.pretrain_dice_share if pretraining else self.dice_share
        return {"loss": share * parts.dice + (1 - share) * parts.ce, "loss_dice": parts.dice, "loss_ce": parts.ce}


ACDC = Objective(dice_loss_2d, "mix", class_pseudo_label, unlabelled_outside=(True, False))
LA = Objective(dice_loss_3d, "whole", partial(class_pseudo_label, connectivity=26), unlabelled_outside=(False, True))
COGRNET = LA  # half a of every batch is its stream 1, half b its stream 2
PANCREAS = Objective(dice_loss_3d, "whole", partial(class_pseudo_label, connectivity=18), unlabelled_outside=(True, False), crossed=True)
