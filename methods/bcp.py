"""BCP (Bai et al., CVPR 2023, arXiv 2305.00673): bidirectional copy-paste, the baseline that other
methods here extend.

Pre-training pastes one half of the labelled images into the other. Self-training pastes labelled
images into unlabelled ones and the reverse; an EMA teacher gives the pseudo labels.

Cost of a self-training step: two student passes over a quarter of the batch each, two teacher
passes over a quarter each.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from methods.base import (
    Batch,
    Method,
    StageContext,
    StageSpec,
    TrainingStage,
    at_least_float32,
    halves,
    split_batch,
)
from methods.copy_paste import START_RATIO, CopyPaste, MaskKind, paste
from methods.stage_networks import PendingTensor, resolved
from utils.ema import Ema, EmaScope
from utils.errors import UserError
from utils.losses import Parts, StepLoss, weighted_sum
from utils.schedules import consistency_weight

TEACHER = "ema_teacher"


@dataclass(frozen=True)
class TeacherOptions:
    """Options of methods with an EMA teacher that gives pseudo labels."""

    u_weight: float = 0.5
    """Weight of the loss on pseudo labels."""
    ema_decay: float = 0.99
    """Decay of the EMA teacher."""

    def check(self) -> None:
        if not 0 <= self.u_weight < 2**63:
            raise UserError(f"--u_weight {self.u_weight}: must be at least 0")
        if not 0 <= self.ema_decay <= 1:
            raise UserError(f"--ema_decay {self.ema_decay}: must lie between 0 and 1")


@dataclass(frozen=True)
class Options(TeacherOptions):
    """Options of BCP."""

    mask: MaskKind = "fixed"
    """Copy-paste box: fixed has 2/3 of each side, dynamic shrinks from 2/3 to box_end during a
    stage.
    """
    box_end: float = 1 / 3
    """Share of each side that a dynamic box has at the end of a stage."""

    def check(self) -> None:
        if not 0 < self.box_end <= 2 / 3:
            raise UserError(
                f"--box_end {self.box_end}: must be above 0 and at most 2/3, where the box starts"
            )


AnyOptions = TypeVar("AnyOptions")
AnyTeacherOptions = TypeVar("AnyTeacherOptions", bound=TeacherOptions)
AnyBoxOptions = TypeVar("AnyBoxOptions", bound=Options)


class CopyPastePretrain(TrainingStage[AnyOptions]):
    """Paste the second half of the labelled images into the first half; every learner learns from
    the same mixed images.
    """

    name = "pre_train"

    def __init__(self, context: StageContext[AnyOptions]) -> None:
        super().__init__(context)
        self.pasting = context.pasting
        self.copy_paste = self.box(context)

    def box(self, context: StageContext[AnyOptions]) -> CopyPaste:
        """Return the copy-paste box of this stage; by default its size is fixed."""
        return fixed_box(context)

    def losses(self, batch: Batch, step: int) -> Iterator[StepLoss]:
        image_a, image_b = halves(batch["image"])
        label_a, label_b = halves(batch["label"])
        mask = self.copy_paste.mask(image_a, step)
        mixed = paste(image_a, image_b, mask)  # (N / 2, C, ...)
        label = paste(label_a, label_b, mask)
        self.log("box_side", self.copy_paste.sides(mask.shape, step)[0])
        function = self.loss.of_whole
        targets: tuple[Tensor, ...] = (label,)
        if self.pasting.pretrain_loss == "mix":
            function = self.loss.of_mixed
            targets = (label_a, label_b, mask)
        for name in self.learners:
            logits, loss = self.forward_with_loss(mixed, function, *targets, network=name)
            if name == "student":
                self.watch(logits, step)
                self.show(mixed, logits, label)
            else:
                loss = loss.renamed(name)
            yield loss

    def watch(self, logits: Tensor, step: int) -> None:
        """Look at the student's logits (N / 2, K, ...) of a step; for methods that learn something
        from them.
        """


class Mix(NamedTuple):
    """A mixed image (N / 4, C, ...), the labels (N / 4, ...) of what is outside and inside its box,
    and the weights of both parts.

    A pseudo label may still be on its way through the host.
    """

    image: Tensor
    labels: tuple[Tensor | PendingTensor, Tensor | PendingTensor]
    weights: tuple[float, float]

    def resolved_labels(self) -> tuple[Tensor, Tensor]:
        """Return the labels outside and inside the box; wait for a pending one."""
        outside, inside = resolved(self.labels)
        return outside, inside

    def label(self, mask: Tensor) -> Tensor:
        """Return the label (N / 4, ...) of the mixed image."""
        outside, inside = self.resolved_labels()
        return paste(outside, inside, mask)


class CopyPasteSelfTrain(TrainingStage[AnyTeacherOptions]):
    """Paste labelled and unlabelled images into each other, with pseudo labels from the teachers.

    The teachers see the unlabelled images in training mode; the mean of their logits gives the
    pseudo label.
    """

    name = "self_train"
    former_state = frozenset({"interval", "counter"})

    def __init__(self, context: StageContext[AnyTeacherOptions]) -> None:
        super().__init__(context)
        self.pasting = context.pasting
        self.copy_paste = self.box(context)
        self.ema = Ema(self.add_teacher(TEACHER), self.student, self.ema_scope(context))

    def box(self, context: StageContext[AnyTeacherOptions]) -> CopyPaste:
        """Return the copy-paste box of this stage; by default its size is fixed."""
        return fixed_box(context)

    def ema_scope(self, context: StageContext[AnyTeacherOptions]) -> EmaScope:
        """Return what the EMA teacher averages; by default what the data set's published code
        averages.
        """
        return context.ema_scope

    @torch.no_grad()
    def pseudo_label(self, image: Tensor) -> PendingTensor:
        """Return the pending pseudo label (N, ...) of unlabelled images (N, C, ...)."""
        logits = [at_least_float32(self.call(name, image)) for name in self.teachers]
        return self.pasting.pseudo_label(mean_of(logits))

    def losses(self, batch: Batch, step: int) -> Iterator[StepLoss]:
        """Yield the losses of the two mixed images.

        Teacher passes come first and pseudo labels are waited for last, so that their way through
        the host overlaps with the student's passes.
        """
        mask = self.copy_paste.mask(batch["image"], step)
        mixes: list[Mix] = []
        for mix in self.mixes(batch, mask):
            mixes.append(mix)
            logits, loss = self.forward_with_loss(
                mix.image, self.loss.of_mixed, *mix.labels, mask, *mix.weights
            )
            self.show(mix.image, logits, mix.label(mask))
            yield loss
        self.log_mixes(mixes)
        self.log("consistency_weight", consistency_weight(step))
        self.log("box_side", self.copy_paste.sides(mask.shape, step)[0])

    def mixes(self, batch: Batch, mask: Tensor) -> Iterator[Mix]:
        """Yield the two mixed images of a step; the pseudo-labelled part is weighted by `u_weight`.

        All teacher passes are made before the first mixed image.
        """
        labelled, unlabelled = split_batch(batch)
        unlabelled_halves = halves(unlabelled)
        pseudo_labels = [self.pseudo_label(half) for half in unlabelled_halves]
        image_halves = halves(labelled)
        label_halves = halves(batch["label"])
        u_weight = self.options.u_weight
        for number, unlabelled_outside in enumerate(self.pasting.unlabelled_outside):
            partner = 1 - number if self.pasting.crossed else number
            image = image_halves[partner]
            label = label_halves[partner]
            unlabelled_image = unlabelled_halves[number]
            pseudo_label = pseudo_labels[number]
            if unlabelled_outside:
                mixed = paste(unlabelled_image, image, mask)
                yield Mix(mixed, (pseudo_label, label), (u_weight, 1.0))
            else:
                mixed = paste(image, unlabelled_image, mask)
                yield Mix(mixed, (label, pseudo_label), (1.0, u_weight))

    def log_mixes(self, mixes: Sequence[Mix]) -> None:
        """Log the share of each foreground class in the pseudo labels of these mixes."""
        pseudo_labels: list[Tensor] = []
        for mix in mixes:
            pseudo_labels += [label() for label in mix.labels if callable(label)]
        if pseudo_labels:
            self.log_pseudo_labels(torch.cat(pseudo_labels))

    def loss_of_mixes(
        self, logits: Sequence[Tensor], mixes: Sequence[Mix], mask: Tensor
    ) -> StepLoss:
        """Return the sum of the losses of all mixes; logits (N / 4, K, ...) of each."""
        terms: list[tuple[Parts, float]] = []
        for one, mix in zip(logits, mixes, strict=True):
            outside, inside = mix.resolved_labels()
            terms.append((self.loss.mixed(one, outside, inside, mask, *mix.weights), 1.0))
        return self.loss.combine(weighted_sum(*terms))

    def after_step(self, step: int) -> None:
        self.ema.update(self.options.ema_decay)


def mean_of(tensors: Sequence[Tensor]) -> Tensor:
    """Return the mean of one or more tensors of the same shape."""
    total = tensors[0]
    for tensor in tensors[1:]:
        total = total + tensor
    return total / len(tensors)


def fixed_box(context: StageContext[object]) -> CopyPaste:
    """Return a box of fixed size, 2/3 of each side."""
    return CopyPaste("fixed", START_RATIO, context.length, context.seed, context.epoch)


def box_from_options(context: StageContext[Options]) -> CopyPaste:
    """Return the box that --mask and --box_end describe."""
    options = context.options
    return CopyPaste(options.mask, options.box_end, context.length, context.seed, context.epoch)


class BCPPretrain(CopyPastePretrain[AnyBoxOptions]):
    """Pre-training of BCP, whose box may shrink."""

    def box(self, context: StageContext[AnyBoxOptions]) -> CopyPaste:
        return box_from_options(context)


class BCPSelfTrain(CopyPasteSelfTrain[AnyBoxOptions]):
    """Self-training of BCP, whose box may shrink."""

    def box(self, context: StageContext[AnyBoxOptions]) -> CopyPaste:
        return box_from_options(context)


def run_title(settings: Mapping[str, Any]) -> str:
    """Return what a run of BCP or of the edge-guided method is called: BCP and what was added to
    it.

    The box is named only if it is not the one that belongs to the rest.
    """
    has_edges = settings.get("egm", "none") != "none"
    has_two_teachers = settings.get("teachers") == "dual"
    has_dynamic_box = settings.get("mask") == "dynamic"
    words = ["BCP"]
    if has_edges:
        words = ["edge-guided BCP"]
    if has_two_teachers:
        words.append("dual teacher")
    if has_dynamic_box and not (has_edges or has_two_teachers):
        words.append("dynamic box")
    if not has_dynamic_box and (has_edges or has_two_teachers):
        words.append("fixed box")
    return ", ".join(words)


METHOD = Method(
    title=run_title,
    options=Options,
    presets={"exp": "bcp_baseline", "egm": "none", "mask": "fixed", "ema_decay": 0.99},
    stages=(
        StageSpec(BCPPretrain, ("pre_iterations",), uses_unlabelled=False, pretraining=True),
        StageSpec(BCPSelfTrain, ("max_iterations",), starts_from=BCPPretrain.name),
    ),
)
