"""Supervised baseline: only the labelled cases, nothing pasted, for pre_iterations +
max_iterations.

Cost of a step: one student pass over the labelled half of the batch.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from methods.base import Batch, Method, StageSpec, TrainingStage
from utils.losses import StepLoss


@dataclass(frozen=True)
class Options:
    """No flags of its own."""


class Supervised(TrainingStage[object]):
    """The student learns from the labelled images only."""

    name = "supervised"

    def losses(self, batch: Batch, step: int) -> Iterator[StepLoss]:
        logits, loss = self.forward_with_loss(batch["image"], self.loss.of_whole, batch["label"])
        self.show(batch["image"], logits, batch["label"])
        yield loss


METHOD = Method(
    title="supervised",
    options=Options,
    presets={"exp": "supervised", "egm": "none"},
    stages=(
        StageSpec(
            Supervised,
            ("pre_iterations", "max_iterations"),
            uses_unlabelled=False,
            pretraining=True,
        ),
    ),
)
