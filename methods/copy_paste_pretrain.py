"""Pre-training by bidirectional copy-paste among labelled cases (BCP, CVPR 2023, section 3.2; the box shrinks in Hsu & Hua)."""

from torch import Tensor, nn

from methods.copy_paste import CopyPaste, paste
from methods.objective import Objective
from utils.losses import mix_loss, supervised_loss
from utils.phase import Batch, Phase, halves


class CopyPastePretrain(Phase):
    name = "pre_train"

    def __init__(self, student: nn.Module, objective: Objective, copy_paste: CopyPaste):
        super().__init__(student)
        self.objective, self.copy_paste = objective, copy_paste

    def losses(self, batch: Batch, step: int) -> dict[str, Tensor | float]:
        (image_a, image_b), (label_a, label_b) = halves(batch["image"]), halves(batch["label"])
        mask = self.copy_paste.mask(image_a, step)
        mixed = paste(image_a, image_b, mask)  # (N / 2, 1, ...)
        logits = self.forward(mixed)
        self.watch(logits, step)
        label = paste(label_a, label_b, mask)
        self.show(mixed, logits, label)
        if self.objective.pretrain_loss == "mix":
            parts = mix_loss(logits, label_a, label_b, mask, dice=self.objective.dice)
        else:
            parts = supervised_loss(logits, label, self.objective.dice)
        return {**self.objective.scalars(parts, pretraining=True), "box_side": self.copy_paste.sides(mask.shape, step)[0]}

    def watch(self, logits: Tensor, step: int) -> None:
        """Called with the logits (N / 2, K, ...) of every step; for methods that learn something from them."""
