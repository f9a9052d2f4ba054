"""Supervised baseline: the labelled cases alone, nothing pasted."""

from torch import Tensor, nn

from methods.objective import Objective
from utils.losses import supervised_loss
from utils.phase import Batch, Phase


class Supervised(Phase):
    name = "supervised"

    def __init__(self, student: nn.Module, objective: Objective):
        super().__init__(student)
        self.objective = objective

    def losses(self, batch: Batch, step: int) -> dict[str, Tensor | float]:
        logits = self.forward(batch["image"])  # (N, K, ...)
        self.show(batch["image"], logits, batch["label"])
        return self.objective.scalars(supervised_loss(logits, batch["label"], self.objective.dice), pretraining=True)
