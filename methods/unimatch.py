"""UniMatch (Yang et al., CVPR 2023), as its authors segment medical images with it: one network and
four views of an image.

The prediction of the weak view of an unlabelled image, where it is confident, is the label of two
strong views and of the weak view with dropped feature channels. Into each strong view, a box of
another image's strong view is pasted with its own label (CutMix).

Cost of a step: one student pass over the batch, whose decoder sees it twice; one over two strong
views of the unlabelled half; one without gradient over that half. No teacher. Published protocol:
ACDC, 12 + 12 + 12 slices of 256 x 256, 300 epochs of 107 iterations, SGD 0.01 with the rate of
`poly_late`; best on the validation and test lists together. Volumes are ours.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from methods.base import Batch, Method, StageContext, StageSpec, split_batch
from methods.class_thresholds import ConfidenceOptions, ConfidentStage
from methods.helpers import SGD_PRESETS, cutmix, cutmix_boxes, softmax
from methods.views import strong_view
from utils.losses import StepLoss, dice_squared, one_hot, predicted

STRONG_WEIGHT = 0.25
FEATURE_WEIGHT = 0.5


class PseudoTarget(NamedTuple):
    """A pseudo label: the most probable class of each pixel and its probability, (U, ...) each."""

    label: Tensor
    confidence: Tensor


@dataclass(frozen=True)
class Options(ConfidenceOptions):
    """Options of UniMatch."""


class UniMatch(ConfidentStage[Options]):
    """One network that learns its own confident predictions."""

    name = "train"

    def __init__(self, context: StageContext[Options]) -> None:
        super().__init__(context)
        self.seed = context.seed

    def losses(self, batch: Batch, step: int) -> Iterator[StepLoss]:
        """Yield half of the loss of labels and dropped features, then half of the loss of both
        strong views.
        """
        labelled, weak = split_batch(batch)
        count = len(labelled)
        partner_target = self.prediction_in_eval_mode(partners(weak))

        logits, dropped = self.call_with_auxiliary("student", batch["image"])
        target = target_of(logits[count:])
        self.thresholds.see(target.confidence, target.label)
        supervised = self.loss.of_whole(logits[:count], batch["label"])
        loss = supervised.plus("feature", self.dice(dropped[count:], target), FEATURE_WEIGHT)
        self.show(labelled, logits, batch["label"])
        self.log("loss_supervised", supervised.total)
        self.log("confident", self.is_confident(target).mean())
        self.log_pseudo_labels(target.label, trusted=self.is_confident(target))
        yield loss._replace(total=loss.total / 2)

        views: list[Tensor] = []
        targets: list[PseudoTarget] = []
        for number in (0, 1):
            box = cutmix_boxes(weak.shape, (*self.seed, step, number), device=weak.device)
            view = strong_view(weak)
            views.append(cutmix(view, partners(view), box))
            targets.append(mixed_target(target, partner_target, box))
        first, second = self.forward(torch.cat(views)).chunk(2)
        loss_1 = self.dice(first, targets[0])
        loss_2 = self.dice(second, targets[1])
        self.log("confident_1", self.is_confident(targets[0]).mean())
        strong = STRONG_WEIGHT * (loss_1 + loss_2)
        yield StepLoss(strong / 2, {"loss_strong_1": loss_1, "loss_strong_2": loss_2})

    @torch.no_grad()
    def prediction_in_eval_mode(self, image: Tensor) -> PseudoTarget:
        """Return the pseudo label of images (U, C, ...), without dropout and with running
        batch-norm statistics.
        """
        self.student.eval()
        target = target_of(self.forward(image))
        self.student.train()
        return target

    def is_confident(self, target: PseudoTarget) -> Tensor:
        """Return a mask (U, ...), 1 where the pseudo label is learned."""
        return self.thresholds.trusted(target.confidence, target.label)

    def dice(self, logits: Tensor, target: PseudoTarget) -> Tensor:
        """Return the Dice loss of logits (U, K, ...) over the confident pixels; 0 if there are
        none.
        """
        truth = one_hot(target.label, logits.shape[1])
        return dice_squared(predicted(logits), truth, self.is_confident(target))


def partners(x: Tensor) -> Tensor:
    """Return, for each of the unlabelled images (U, ...), another one of them to mix with."""
    return x.flip(0)


def target_of(logits: Tensor) -> PseudoTarget:
    """Return the pseudo label that logits (U, K, ...) give, without gradient."""
    confidence, label = softmax(logits.detach()).max(1)
    return PseudoTarget(label, confidence)


def mixed_target(target: PseudoTarget, partner: PseudoTarget, box: Tensor) -> PseudoTarget:
    """Return `target` with `partner` inside the box (U, ...)."""
    return PseudoTarget(
        cutmix(target.label, partner.label, box), cutmix(target.confidence, partner.confidence, box)
    )


METHOD = Method(
    title="UniMatch",
    options=Options,
    presets={
        **SGD_PRESETS,
        "exp": "unimatch",
        "model": "unet_unimatch",
        "losses": (("dice_squared", 0.5), ("ce", 0.5)),
        "lr_schedule": "poly_late",
        "max_iterations": 32_100,
        "val_every": 107,
    },
    presets_of_dims={
        3: {
            "model": "VNet_unimatch",
            "max_iterations": 15_000,
            "val_every": 200,
            "batch_size": 4,
            "labeled_bs": 2,
        }
    },
    auxiliary="dropped",
    stages=(StageSpec(UniMatch),),
)
