"""BCP without copy-paste: pre-training on the labelled images, then self-training with the pseudo
labels of an EMA teacher.

The ablation that shows what copy-paste adds to BCP and to CoGRNet; `mean_teacher` is the published
method with a consistency loss.

Cost of a self-training step: one student pass over each half of the batch, one teacher pass over
the unlabelled half.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from methods.base import (
    Batch,
    Method,
    StageContext,
    StageSpec,
    TrainingStage,
    at_least_float32,
    split_batch,
)
from methods.bcp import TEACHER, TeacherOptions
from methods.stage_networks import PendingTensor
from methods.supervised import Supervised
from utils.ema import Ema
from utils.losses import StepLoss, weighted_sum
from utils.schedules import consistency_weight


@dataclass(frozen=True)
class Options(TeacherOptions):
    """Those of the teacher."""


class PlainPretrain(Supervised):
    """Supervised training on the labelled images, as the first stage."""

    name = "pre_train"


class PseudoLabelSelfTrain(TrainingStage[Options]):
    """Labelled images against their labels, unlabelled ones against the teacher's pseudo labels."""

    name = "self_train"
    former_state = frozenset({"interval", "counter"})

    def __init__(self, context: StageContext[Options]) -> None:
        super().__init__(context)
        self.pasting = context.pasting
        self.ema = Ema(self.add_teacher(TEACHER), self.student, context.ema_scope)

    @torch.no_grad()
    def pseudo_label(self, image: Tensor) -> PendingTensor:
        """Return the pending pseudo label (N, ...) of unlabelled images (N, C, ...)."""
        return self.pasting.pseudo_label(at_least_float32(self.call(TEACHER, image)))

    def losses(self, batch: Batch, step: int) -> Iterator[StepLoss]:
        labelled, unlabelled = split_batch(batch)
        pseudo_label = self.pseudo_label(unlabelled)
        logits, loss = self.forward_with_loss(labelled, self.loss.of_whole, batch["label"])
        self.show(labelled, logits, batch["label"])
        yield loss
        _, loss = self.forward_with_loss(unlabelled, self.of_unlabelled, pseudo_label)
        yield loss
        self.log_pseudo_labels(pseudo_label())
        self.log("consistency_weight", consistency_weight(step))

    def of_unlabelled(self, logits: Tensor, label: Tensor) -> StepLoss:
        """Return the loss of unlabelled images, times `u_weight`."""
        parts = self.loss.whole(logits, label)
        return self.loss.combine(weighted_sum((parts, self.options.u_weight)))

    def after_step(self, step: int) -> None:
        self.ema.update(self.options.ema_decay)


METHOD = Method(
    title="EMA pseudo labels",
    options=Options,
    presets={"exp": "pseudo_label", "egm": "none"},
    stages=(
        StageSpec(PlainPretrain, ("pre_iterations",), uses_unlabelled=False, pretraining=True),
        StageSpec(PseudoLabelSelfTrain, ("max_iterations",), starts_from=PlainPretrain.name),
    ),
)
