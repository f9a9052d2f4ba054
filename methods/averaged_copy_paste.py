"""Bidirectional copy-paste whose result is the average of the student: the EMA teacher is
validated, selected and tested, also in pre-training.

It differs from BCP (CVPR 2023) in five points, of which four are flags. The presets also change the
learning rate, its schedule and the intensity augmentation.

- `--keep`: the averaged network is kept.
- `--teacher_mode`, `--teacher_view`: the teacher gets unlabelled images without dropout and without
  intensity changes, and keeps the batch-norm statistics of these images.
- `--pseudo_weight`: each pixel of a pseudo label is weighted by the teacher's probability of its
  class.
- `--pre_paste`: pre-training pastes in both directions.
- Both kinds of mixed images go through the student in one pass, so that batch norm uses all of
  them.

Results: docs/leaderboard.md and docs/results/recipe.md.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from methods.base import (
    Batch,
    Method,
    StageContext,
    StageSpec,
    at_least_float32,
    halves,
    split_batch,
)
from methods.bcp import TEACHER, CopyPastePretrain, CopyPasteSelfTrain, TeacherOptions
from methods.copy_paste import paste
from utils.ema import Ema, EmaScope
from utils.losses import StepLoss

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


@dataclass(frozen=True)
class Options(TeacherOptions):
    """Options of averaged copy-paste."""

    keep: Literal["teacher", "student"] = "teacher"
    """The network that is validated, selected, tested and passed from pre-training to
    self-training.
    """
    teacher_mode: Literal["eval", "statistics", "train"] = "statistics"
    """How the teacher predicts unlabelled images. eval: in evaluation mode. statistics: without
    dropout, but with the batch-norm statistics of the batch; the teacher keeps running statistics
    of these unmixed images, whereas those of the student are of mixed ones. train: in training
    mode, as in BCP.
    """
    teacher_view: Literal["plain", "same"] = "plain"
    """Images that the teacher predicts. plain: without the changes of --intensity. same: those that
    the student gets.
    """
    pseudo_weight: Literal["probability", "one"] = "probability"
    """Weight of a pixel of the pseudo label: the teacher's probability of that class, or 1."""
    pre_paste: Literal["both", "one"] = "both"
    """Pre-training. both: paste each half of the labelled images into the other. one: paste only
    the second half into the first, as in BCP.
    """
    paste: Literal["both", "one"] = "one"
    """Self-training. both: paste every labelled image and its unlabelled partner into each other,
    which makes twice as many mixed images. one: paste one of them into the other, as in BCP.
    """


def normalise_by_batch(net: nn.Module) -> None:
    """Let batch norm use the statistics of the batch; its running averages are over some 50 passes.

    All else stays as it is.
    """
    for module in net.modules():
        if isinstance(module, BATCH_NORMS):
            module.training = True
            module.momentum = 0.02


class AveragedPretrain(CopyPastePretrain[Options]):
    """Copy-paste among the labelled images, whose product is the average of the student."""

    def __init__(self, context: StageContext[Options]) -> None:
        super().__init__(context)
        self.ema = Ema(self.add_teacher(TEACHER), self.student)
        self.selected = TEACHER if self.options.keep == "teacher" else "student"

    def losses(self, batch: Batch, step: int) -> Iterator[StepLoss]:
        if self.options.pre_paste == "both":
            batch = {name: pasted_both_ways(batch[name]) for name in ("image", "label")}
        yield from super().losses(batch, step)

    def after_step(self, step: int) -> None:
        self.ema.update(self.options.ema_decay)


def pasted_both_ways(x: Tensor) -> Tensor:
    """Return the halves a, b of a batch as (a, b, b, a), so that the first half meets the second in
    both orders.
    """
    a, b = halves(x)
    return torch.cat([a, b, b, a])


class AveragedSelfTrain(CopyPasteSelfTrain[Options]):
    """Labelled and unlabelled images pasted into each other in one pass, with pseudo labels by the
    average.
    """

    def __init__(self, context: StageContext[Options]) -> None:
        super().__init__(context)
        self.selected = TEACHER if self.options.keep == "teacher" else "student"

    def ema_scope(self, context: StageContext[Options]) -> EmaScope:
        """Average only parameters if the teacher keeps statistics of its own."""
        return "parameters" if self.options.teacher_mode == "statistics" else "state"

    @torch.no_grad()
    def trusted_pseudo_label(self, image: Tensor) -> Callable[[], tuple[Tensor, Tensor]]:
        """Return a call that gives the pseudo label (N, ...) of images (N, C, ...) and the weight
        of its every pixel (N, ...).
        """
        self._set_teacher_mode()
        logits = at_least_float32(self.call(TEACHER, image))
        pseudo_label = self.pasting.pseudo_label(logits)

        def trusted() -> tuple[Tensor, Tensor]:
            label = pseudo_label()
            if self.options.pseudo_weight == "one":
                return label, torch.ones(label.shape, device=label.device)
            return label, logits.softmax(1).gather(1, label[:, None])[:, 0]

        return trusted

    def _set_teacher_mode(self) -> None:
        """Set the teacher's mode, at every step: validations leave it in eval mode."""
        teacher = self.networks[TEACHER]
        training = self.options.teacher_mode == "train"
        if teacher.training != training:
            teacher.train(training)
        if self.options.teacher_mode == "statistics":
            normalise_by_batch(teacher)
            if TEACHER in self.half_precision_copies:
                normalise_by_batch(self.half_precision_copies[TEACHER])

    def losses(self, batch: Batch, step: int) -> Iterator[StepLoss]:
        labelled, unlabelled = split_batch(batch)
        label = batch["label"]
        trusted = self.trusted_pseudo_label(self._teacher_view(batch))
        box = self.copy_paste.mask(labelled, step)  # (...), 1 outside
        if self.pasting.crossed:
            labelled = swap_halves(labelled)
            label = swap_halves(label)
        is_labelled = self._labelled_part(box, len(label))  # (N / 2, ...)
        paste_both = self.options.paste == "both"
        if paste_both:
            is_labelled = torch.cat([is_labelled, 1 - is_labelled])
            labelled = twice(labelled)
            label = twice(label)
            unlabelled = twice(unlabelled)
        mixed = paste(labelled, unlabelled, is_labelled.unsqueeze(1))  # (N / 2 or N, C, ...)
        logits = self.forward(mixed)
        pseudo_label, trust = trusted()  # waited for last: it comes through the host
        self.log_pseudo_labels(pseudo_label)
        if paste_both:
            pseudo_label = twice(pseudo_label)
            trust = twice(trust)
        self.show(mixed, logits, paste(label, pseudo_label, is_labelled))
        self.log("trust", trust.mean())
        self.log("box_side", self.copy_paste.sides(box.shape, step)[0])
        weights = (1.0, self.options.u_weight, trust)
        yield self.loss_of(self.loss.of_mixed, logits, label, pseudo_label, is_labelled, *weights)

    def _teacher_view(self, batch: Batch) -> Tensor:
        """Return the unlabelled images as the teacher sees them."""
        images = batch["image"]
        if self.options.teacher_view == "plain":
            images = batch.get("plain", images)
        return images[len(batch["label"]) :]

    def _labelled_part(self, box: Tensor, images: int) -> Tensor:
        """Return a mask (images, ...): 1 where a mixed image shows its labelled image."""
        parts: list[Tensor] = []
        for unlabelled_outside in self.pasting.unlabelled_outside:
            part = 1 - box if unlabelled_outside else box
            parts.append(part.expand(images // 2, *box.shape))
        return torch.cat(parts)


def twice(x: Tensor) -> Tensor:
    """Return a batch followed by itself."""
    return torch.cat([x, x])


def swap_halves(x: Tensor) -> Tensor:
    """Return the second half of a batch followed by the first."""
    a, b = halves(x)
    return torch.cat([b, a])


METHOD = Method(
    title="averaged copy-paste",
    options=Options,
    presets={
        "exp": "averaged_copy_paste",
        "egm": "none",
        # statistics of batch norm lag behind a longer average; in pre-training nothing would be
        # found
        "ema_decay": 0.89,
        "intensity": ("gamma", "brightness", "noise"),
        "lr_schedule": "poly",
        "pre_lr_schedule": "poly",
        "lr_drop_every": 0,  # a data set's own steps belong to another schedule
    },
    stages=(
        StageSpec(AveragedPretrain, ("pre_iterations",), uses_unlabelled=False, pretraining=True),
        StageSpec(AveragedSelfTrain, ("max_iterations",), starts_from=AveragedPretrain.name),
    ),
)
