"""ABD (Chi et al., CVPR 2024): adaptive bidirectional displacement, in its variant on top of BCP.

Two networks learn from the copy-paste mixes of BCP, the first from weak views and the second from
strong views, and each from the other's prediction. The least confident patch of a mix is then
replaced by a confident patch of the other view, and both networks learn from each other on these
images as well. The EMA teacher follows the first network and labels each view by itself.

Cost of a step: each network makes 2 passes over a quarter of the batch and 1 over a whole batch
(all mixes of both views); the teacher makes 4 passes over a quarter.
Published protocol: ACDC, BCP's pre-training, then 12 + 12 slices of 256 x 256, 30 000 iterations,
SGD with a constant rate of 0.01. Each network's best on the validation list is kept; tables give
the first one.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from methods.base import Batch, Method, StageContext, StageSpec
from methods.bcp import CopyPastePretrain, CopyPasteSelfTrain, Mix, TeacherOptions
from methods.displacement import Views, displaced
from methods.helpers import hard_pseudo_label
from methods.views import strong_view
from utils.ema import EmaScope
from utils.losses import Loss, StepLoss, dice_2d

OTHER = "other"
AGREEMENT = Loss({"dice_squared": 1.0}, dice_2d)


@dataclass(frozen=True)
class Options(TeacherOptions):
    """Options of ABD."""

    select_network: Literal["student", "other"] = "student"
    """Network that is selected, tested and exported: student, which learns from weak views, or
    other, from strong ones. Both are validated."""


class ABD(CopyPasteSelfTrain[Options]):
    """BCP's self-training of two networks on two views, which learn from each other's predictions
    of mixed and displaced images.

    Both networks and the teacher start from the same pre-training.
    """

    def __init__(self, context: StageContext[Options]) -> None:
        super().__init__(context)
        self.add_learner(OTHER, context.network(1))
        self.validated = ("student", OTHER)
        self.selected = self.options.select_network

    def ema_scope(self, context: StageContext[Options]) -> EmaScope:
        """Average the whole state, batch-norm statistics included."""
        return "state"

    def losses(self, batch: Batch, step: int) -> Iterator[StepLoss]:
        mask = self.copy_paste.mask(batch["image"], step)
        strong_batch = {**batch, "image": strong_view(batch["image"])}
        weak_mixes = list(self.mixes(batch, mask))
        strong_mixes = list(self.mixes(strong_batch, mask))
        logits = Views(
            self.mixed_logits("student", weak_mixes), self.mixed_logits(OTHER, strong_mixes)
        )
        images = Views(images_of(weak_mixes), images_of(strong_mixes))
        changed = torch.cat(displaced(images, detached(logits), self.draw_nearest(images.first)))
        changed_logits = Views(self.forward(changed), self.call(OTHER, changed))
        self.show(images.first, logits.first, weak_mixes[0].label(mask))

        loss = self.loss_of_mixes(logits.first.chunk(2), weak_mixes, mask)
        loss = loss.plus("cross", agreement(logits.first, logits.second))
        loss = loss.plus("displaced", agreement(changed_logits.first, changed_logits.second))
        self.log("loss_student", loss.total)
        yield loss
        loss = self.loss_of_mixes(logits.second.chunk(2), strong_mixes, mask)
        loss = loss.plus("cross", agreement(logits.second, logits.first))
        loss = loss.plus("displaced", agreement(changed_logits.second, changed_logits.first))
        self.log("loss_other", loss.total)
        yield loss.renamed(OTHER)
        self.log_mixes(weak_mixes)

    def mixed_logits(self, name: str, mixes: list[Mix]) -> Tensor:
        """Return a network's logits (N / 2, K, ...) of both mixes, which are two passes."""
        return torch.cat([self.call(name, mix.image) for mix in mixes])

    def draw_nearest(self, image: Tensor) -> Tensor:
        """Draw for each image (N, C, ...) whether the nearest of the most confident patches
        displaces the least confident one."""
        return torch.rand(len(image), device=image.device) < 0.5


def agreement(logits: Tensor, other: Tensor) -> Tensor:
    """Return the Dice loss of logits (N, K, ...) against the classes that the other network
    predicts."""
    return AGREEMENT.whole(logits, hard_pseudo_label(other))["dice_squared"]


def images_of(mixes: list[Mix]) -> Tensor:
    """Return the images of all mixes in one batch."""
    return torch.cat([mix.image for mix in mixes])


def detached(views: Views) -> Views:
    """Return both without their graphs."""
    return Views(views.first.detach(), views.second.detach())


METHOD = Method(
    title="ABD",
    options=Options,
    presets={
        "exp": "abd",
        "egm": "none",
        "ema_decay": 0.99,
        "optimizer": "sgd",
        "base_lr": 0.01,
        "lr_schedule": "constant",
        "lr_drop_every": 0,
        "weight_decay": 1e-4,
    },
    stages=(
        StageSpec(CopyPastePretrain, ("pre_iterations",), uses_unlabelled=False, pretraining=True),
        StageSpec(ABD, ("max_iterations",), starts_from=CopyPastePretrain.name),
    ),
)
