"""Supervised baseline: the labelled cases alone, nothing pasted, for pre_iterations + max_iterations."""

from dataclasses import dataclass

from torch import nn

from utils.losses import Loss
from utils.phase import Batch, Losses, Phase, Plan


@dataclass(frozen=True)
class Options:
    """No flags of its own."""


PRESET = {"exp": "supervised", "egm": "none"}
TITLE = "supervised"


class Supervised(Phase):
    name = "supervised"

    def __init__(self, student: nn.Module, loss: Loss):
        super().__init__(student=student)
        self.loss = loss

    def losses(self, batch: Batch, step: int) -> Losses:
        logits, scalars = self.scored(batch["image"], self.loss.of_whole, batch["label"])
        self.show(batch["image"], logits, batch["label"])
        return scalars


def stages(frame) -> list[Plan]:
    s = frame.settings
    build = lambda: Supervised(frame.network(), frame.loss(pretraining=True))  # noqa: E731
    return [
        Plan(
            Supervised,
            build,
            s.pre_iterations + s.max_iterations,
            unlabelled=False,
            pretraining=True,
        )
    ]
