"""Mean teacher (Tarvainen & Valpola, NeurIPS 2017), as SSL4MIS segments medical images with it.

An EMA teacher predicts the unlabelled images with noise added, the student predicts them without.
The mean squared difference of their probabilities is the consistency loss. Its weight rises during
training, and on 2-D data it is 0 for the first 1 000 iterations.

Cost of a step: one student pass over the batch, one teacher pass over the unlabelled half.
Published protocol: ACDC, 12 + 12 slices of 256 x 256, 30 000 iterations, SGD 0.01 with the rate of
`poly_late`; best student on the validation list. Volumes follow UA-MT's protocol on LA: 2 + 2
patches, 6 000 iterations, last checkpoint.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from methods.base import Batch, Method, StageContext, StageSpec, TrainingStage, split_batch
from methods.helpers import (
    LA_PRESETS,
    SGD_PRESETS,
    ConsistencyOptions,
    ema_decay_with_warm_up,
    gaussian_noise,
    mean_squared_difference,
    published_time,
    ramped_consistency,
    softmax,
)
from utils.ema import Ema
from utils.errors import UserError
from utils.losses import StepLoss

TEACHER = "ema_teacher"
PUBLISHED_ITERATIONS = {2: 30_000, 3: 6_000}


@dataclass(frozen=True)
class Options(ConsistencyOptions):
    """Options of mean teacher."""

    ema_decay: float = 0.99
    """Decay of the EMA teacher after its warm-up."""
    consistency_start: int = 1000
    """Iterations of the published run before which the consistency loss is 0 (see --lengths)."""

    def check(self) -> None:
        if not 0 <= self.ema_decay <= 1:
            raise UserError(f"--ema_decay {self.ema_decay}: must lie between 0 and 1")
        if not 0 <= self.consistency_start < 2**63:
            raise UserError(f"--consistency_start {self.consistency_start}: must be at least 0")


class MeanTeacher(TrainingStage[Options]):
    """The student learns labels and agreement with the teacher.

    The teacher averages parameters; its statistics are its own.
    """

    name = "train"

    def __init__(self, context: StageContext[Options]) -> None:
        super().__init__(context)
        self.time = published_time(context, PUBLISHED_ITERATIONS)
        self.ema = Ema(self.add_teacher(TEACHER), self.student, "parameters")

    def losses(self, batch: Batch, step: int) -> Iterator[StepLoss]:
        labelled, unlabelled = split_batch(batch)
        count = len(labelled)
        logits = self.forward(batch["image"])  # (N, K, ...)
        consistency = self.consistency(softmax(logits[count:]), unlabelled, step)
        published_step = self.time.step(step)
        if published_step < self.options.consistency_start:
            consistency = torch.zeros_like(consistency)
        weight = ramped_consistency(self.options, published_step)
        loss = self.loss.of_whole(logits[:count], batch["label"])
        self.show(labelled, logits, batch["label"])
        self.log("consistency_weight", weight)
        yield loss.plus("consistency", consistency, weight)

    def consistency(self, probabilities: Tensor, unlabelled: Tensor, step: int) -> Tensor:
        """Return the distance of the student's probabilities (U, K, ...) of the unlabelled images
        (U, C, ...) from the teacher's.
        """
        return mean_squared_difference(probabilities, self.teacher_probabilities(unlabelled))

    @torch.no_grad()
    def teacher_probabilities(self, image: Tensor) -> Tensor:
        """Return the teacher's probabilities (U, K, ...) of images (U, C, ...) with noise added."""
        return softmax(self.call(TEACHER, gaussian_noise(image)))

    def after_step(self, step: int) -> None:
        self.ema.update(ema_decay_with_warm_up(step, self.options.ema_decay))


METHOD = Method(
    title="mean teacher",
    options=Options,
    presets={
        **SGD_PRESETS,
        "exp": "mean_teacher",
        "losses": (("dice_squared", 0.5), ("ce", 0.5)),
        "lr_schedule": "poly_late",
        "max_iterations": PUBLISHED_ITERATIONS[2],
    },
    presets_of_dims={3: {**LA_PRESETS, "consistency_start": 0}},
    stages=(StageSpec(MeanTeacher),),
)
