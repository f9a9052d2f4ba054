"""CPS (Chen et al., CVPR 2021): two networks, each learns from the other's pseudo labels, as
SSL4MIS segments medical images with it.

Both see the same batch and differ only in their first weights. On unlabelled images each minimises
the cross entropy with the other's most probable classes. The weight of that loss rises during
training.

Cost of a step: one pass of each of the two networks over the batch, both with gradient; two
networks and optimisers in memory. Published protocol: ACDC, 12 + 12 slices of 256 x 256, 30 000
iterations, SGD 0.01 with the rate of `poly`. Each network keeps its own best checkpoint and tables
give the first one. Volumes follow UA-MT's protocol on LA, as `mean_teacher` does.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F

from methods.base import (
    Batch,
    Method,
    StageContext,
    StageSpec,
    TrainingStage,
    at_least_float32,
)
from methods.helpers import (
    LA_PRESETS,
    SGD_PRESETS,
    ConsistencyOptions,
    hard_pseudo_label,
    published_time,
    ramped_consistency,
)
from utils.losses import StepLoss

FIRST = "student"
SECOND = "other"
PUBLISHED_ITERATIONS = {2: 30_000, 3: 6_000}


@dataclass(frozen=True)
class Options(ConsistencyOptions):
    """Options of CPS."""

    select_network: Literal["student", "other", "mean"] = "student"
    """The network that is selected, tested and predicted with: the first, the second, or the mean
    of both softmaxes.
    """


class CrossPseudoSupervision(TrainingStage[Options]):
    """Two learners that give each other pseudo labels."""

    name = "train"

    def __init__(self, context: StageContext[Options]) -> None:
        super().__init__(context)
        self.time = published_time(context, PUBLISHED_ITERATIONS)
        self.add_learner(SECOND, context.network(1))
        self.selected = context.options.select_network
        self.validated = tuple(dict.fromkeys((FIRST, SECOND, self.selected)))

    def losses(self, batch: Batch, step: int) -> Iterator[StepLoss]:
        """Yield the loss of each network; neither depends on the other's weights."""
        label = batch["label"]
        count = len(label)
        logits = {name: self.call(name, batch["image"]) for name in (FIRST, SECOND)}  # (N, K, ...)
        weight = ramped_consistency(self.options, self.time.step(step))
        self.show(batch["image"], logits[FIRST], label)
        self.log("consistency_weight", weight)
        for name, teaching in ((FIRST, SECOND), (SECOND, FIRST)):
            pseudo_label = hard_pseudo_label(logits[teaching][count:])
            pseudo_loss = F.cross_entropy(at_least_float32(logits[name][count:]), pseudo_label)
            loss = self.loss.of_whole(logits[name][:count], label)
            loss = loss.plus("pseudo", pseudo_loss, weight)
            self.log(f"loss_pseudo_{name}", pseudo_loss)
            if name == FIRST:
                self.log_pseudo_labels(pseudo_label)
            self.log(f"loss_{name}", loss.total)
            yield loss


METHOD = Method(
    title="CPS",
    options=Options,
    presets={
        **SGD_PRESETS,
        "exp": "cps",
        "losses": (("dice_squared", 0.5), ("ce", 0.5)),
        "lr_schedule": "poly",
        "max_iterations": PUBLISHED_ITERATIONS[2],
    },
    presets_of_dims={3: LA_PRESETS},
    stages=(StageSpec(CrossPseudoSupervision),),
)
