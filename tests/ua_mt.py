"""UA-MT (Yu et al., MICCAI 2019): a mean teacher whose consistency loss counts only where the teacher is certain.

Entropy of eight stochastic passes of the teacher is its uncertainty; pixels above a rising threshold are ignored.
Cost of a step: one student pass over the batch, nine teacher passes over the unlabelled half.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from methods.base import Batch, Method, StageContext, StageSpec, TrainingStage, split_batch
from methods.helpers import (
    consistency_ramp,
    ema_decay_with_warm_up,
    entropy,
    gaussian_noise,
    monte_carlo_probabilities,
    uncertainty_threshold,
)
from utils.ema import Ema
from utils.losses import StepLoss

TEACHER = "ema_teacher"


@dataclass(frozen=True)
class Options:
    consistency: float = 0.1
    """Weight of the consistency loss at the end of its ramp."""
    consistency_rampup: int = 200
    """Length of that ramp, in units of 150 iterations."""
    ema_decay: float = 0.99
    """Decay of the EMA teacher after its warm-up."""


class UncertaintyAwareMeanTeacher(TrainingStage[Options]):
    name = "train"

    def __init__(self, context: StageContext[Options]):
        super().__init__(context)
        self.length = context.length
        self.ema = Ema(self.add_teacher(TEACHER), self.student, "parameters")

    def losses(self, batch: Batch, step: int) -> Iterator[StepLoss]:
        labelled, unlabelled = split_batch(batch)
        noisy = gaussian_noise(unlabelled)
        logits = self.forward(batch["image"])
        with torch.no_grad():
            target = self.call(TEACHER, noisy).softmax(1)
        mean = monte_carlo_probabilities(lambda x: self.call(TEACHER, x), unlabelled, passes=4)
        certain = (entropy(mean) < uncertainty_threshold(step, self.length)).float()  # (U, ...)
        difference = (logits[len(labelled) :].softmax(1) - target).square().sum(1)
        consistency = (difference * certain).sum() / (2 * certain.sum() + 1e-16)
        options = self.options
        weight = options.consistency * consistency_ramp(step, options.consistency_rampup)
        loss = self.loss.of_whole(logits[: len(labelled)], batch["label"])
        self.show(labelled, logits, batch["label"])
        self.log("certain", certain.mean())
        yield loss.plus("consistency", consistency, weight)

    def after_step(self, step: int) -> None:
        self.ema.update(ema_decay_with_warm_up(step, self.options.ema_decay))


METHOD = Method(
    title="UA-MT",
    options=Options,
    presets={"exp": "ua_mt", "egm": "none"},
    stages=(StageSpec(UncertaintyAwareMeanTeacher),),
)
