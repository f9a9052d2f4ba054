"""SDCL (Song & Wang, MICCAI 2024): students discrepancy-informed correction learning, on top of
BCP.

A second student of another kind learns from the same copy-paste mixes as the first. Where the two
disagree, each is drawn to the label of the mix, and where it disagrees and is wrong, its prediction
is flattened. The EMA teacher follows the first student.

Cost of a step: each student makes 2 passes over a quarter of the batch, the teacher 2 passes over a
quarter.
Published protocol: ACDC, U-Net and Res-U-Net, Adam with a constant rate of 0.001, 12 + 12 slices of
256 x 256; pre-training of both students for 100 epochs of the labelled slices, self-training for
400. Both students and the mean of their softmaxes are validated; the paper's scores are those of
the mean.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from methods.base import Batch, Method, StageContext, StageSpec, TrainingStage
from methods.bcp import CopyPastePretrain, CopyPasteSelfTrain, Mix, TeacherOptions
from methods.helpers import hard_pseudo_label
from methods.stage_networks import MEAN
from utils.ema import EmaScope
from utils.errors import UserError
from utils.losses import StepLoss, masked_mean, one_hot, predicted

OTHER = "other"


@dataclass(frozen=True)
class Options(TeacherOptions):
    """Options of SDCL."""

    other_model: str = "resunet"
    """Network of the second student."""
    select_network: Literal["student", "other", "mean"] = "mean"
    """Network that is selected and tested: one of the students, or mean, the mean of their
    softmaxes. All three are validated."""
    difference_weight: float = 0.5
    """Weight of the squared distance to the label where the students disagree."""
    entropy_weight: float = 0.05
    """Weight of the term that flattens predictions that are wrong where the students disagree."""

    def check(self) -> None:
        for name in ("difference_weight", "entropy_weight"):
            if not 0 <= getattr(self, name) < 2**63:
                raise UserError(f"--{name} {getattr(self, name)}: must be at least 0")


def add_second_student(stage: TrainingStage[Any], context: StageContext[Options]) -> None:
    """Register the second student, and what is validated and selected."""
    model = context.options.other_model
    stage.add_learner(OTHER, context.network(1, model), model=model)
    stage.validated = ("student", OTHER, MEAN)
    stage.selected = context.options.select_network


class SDCLPretrain(CopyPastePretrain[Options]):
    """BCP's pre-training of both students."""

    def __init__(self, context: StageContext[Options]) -> None:
        super().__init__(context)
        add_second_student(self, context)


class SDCL(CopyPasteSelfTrain[Options]):
    """BCP's self-training of two students, corrected where they disagree.

    Half a of the unlabelled images is mixed with half b of the labelled ones, and b with a, as in
    the published code.
    """

    def __init__(self, context: StageContext[Options]) -> None:
        super().__init__(context)
        self.pasting = replace(context.pasting, crossed=True)
        add_second_student(self, context)

    def ema_scope(self, context: StageContext[Options]) -> EmaScope:
        """Average the whole state, batch-norm statistics included."""
        return "state"

    def losses(self, batch: Batch, step: int) -> Iterator[StepLoss]:
        mask = self.copy_paste.mask(batch["image"], step)
        mixes = list(self.mixes(batch, mask))
        logits: dict[str, list[Tensor]] = {}
        for name in self.learners:
            logits[name] = [self.call(name, mix.image) for mix in mixes]
        disagreements: list[Tensor] = []
        for first, second in zip(logits["student"], logits[OTHER], strict=True):
            disagreements.append(hard_pseudo_label(first) != hard_pseudo_label(second))
        self.show(mixes[0].image, logits["student"][0], mixes[0].label(mask))
        self.log("differing", torch.cat(disagreements).float().mean())
        for name in self.learners:
            loss = self.student_loss(logits[name], mixes, disagreements, mask)
            self.log(f"loss_{name}", loss.total)
            if name != "student":
                loss = loss.renamed(name)
            yield loss
        self.log_mixes(mixes)

    def student_loss(
        self, logits: list[Tensor], mixes: list[Mix], disagreements: list[Tensor], mask: Tensor
    ) -> StepLoss:
        """Return the loss of one student: logits (N / 4, K, ...) and disagreement (N / 4, ...) of
        each mix."""
        loss = self.loss_of_mixes(logits, mixes, mask)
        options = self.options
        for number, mix in enumerate(mixes):
            weight_outside, weight_inside = mix.weights
            weight = weight_outside * mask + weight_inside * (1 - mask)
            difference, flatness = correction(
                logits[number],
                mix.label(mask),
                weight=weight,
                disagreement=disagreements[number],
            )
            loss = loss.plus(f"difference_{number}", difference, options.difference_weight)
            loss = loss.plus(f"entropy_{number}", flatness, options.entropy_weight)
        return loss


def correction(
    logits: Tensor, label: Tensor, weight: Tensor, disagreement: Tensor
) -> tuple[Tensor, Tensor]:
    """Return a student's two correction terms on one mix: its distance from the label, and from a
    flat prediction.

    The first is the mean of weight * mean_c (p - onehot)^2 over the pixels where the students
    disagree, the second the mean of weight * mean_c (-log p) over those of them where this student
    is wrong. logits (N, K, ...), label and disagreement (N, ...), weight (...).
    """
    log_probabilities, probabilities = predicted(logits)
    truth = one_hot(label, logits.shape[1])
    distance = (probabilities - truth).square().mean(1)
    difference = masked_mean(weight * distance, disagreement.float())
    wrong = disagreement & (hard_pseudo_label(logits) != label)
    flatness = masked_mean(weight * -log_probabilities.mean(1), wrong.float())
    return difference, flatness


METHOD = Method(
    title="SDCL",
    options=Options,
    presets={
        "exp": "sdcl",
        "egm": "none",
        "ema_decay": 0.99,
        "optimizer": "adam",
        "base_lr": 0.001,
        "lr_schedule": "constant",
        "lr_drop_every": 0,
        "weight_decay": 0.0,
        "pre_weight_decay": 0.0,
    },
    presets_of_dims={2: {"dice_background": "masked"}, 3: {"other_model": "VNet"}},
    stages=(
        StageSpec(SDCLPretrain, ("pre_iterations",), uses_unlabelled=False, pretraining=True),
        StageSpec(
            SDCL,
            ("max_iterations",),
            starts_from=SDCLPretrain.name,
            keeps_optimizer=True,
        ),
    ),
)
