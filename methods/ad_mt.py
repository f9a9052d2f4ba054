"""AD-MT (Zhao et al., ECCV 2024): alternate diverse teaching with two EMA teachers.

The teachers take turns: only the turn's teacher follows the student, so that the two stay
different. Both label the unlabelled images, weighted by how certain they are. Where they disagree
and the student is surer of another class, the student's class is taken. The student learns these
labels on a strong view in turns of teacher a, and on a CutMix of weak views in turns of teacher b.

Cost of a step: one student pass over one and a half batches, two teacher passes over the unlabelled
half.
Published protocol: SGD 0.01 with the rate of `poly_late`; ACDC 12 + 12 slices, 30 000 iterations,
LA and Pancreas 2 + 2 patches, 15 000 iterations. ACDC: best student on the validation list;
volumes: best on the test list. The best of the first teacher is kept as well.
"""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from methods.base import Batch, Method, StageContext, StageSpec, split_batch
from methods.class_thresholds import ConfidenceOptions, ConfidentStage
from methods.helpers import (
    SGD_PRESETS,
    ConsistencyOptions,
    boxes_around,
    cutmix,
    ema_decay_with_warm_up,
    published_time,
    ramped_consistency,
    softmax,
)
from methods.teacher_ensemble import EnsembleTarget, compromise, ensemble
from methods.views import strong_view
from utils.ema import Ema
from utils.errors import UserError
from utils.losses import Loss, StepLoss, dice_2d

TEACHERS = ("teacher_a", "teacher_b")
PUBLISHED_ITERATIONS = {2: 30_000, 3: 15_000}
UNSUPERVISED = {2: "dice_squared", 3: "ce"}
"""Loss on pseudo labels, by the number of axes."""
MIXING = 4.0
"""Both parameters of the beta distribution of CutMix's ratio (train_post_2d_aut.py)."""
FIRST_CENTRE = 8
"""Centres of CutMix boxes lie between side // 8 and the side's end (train_post_2d_aut.py)."""


@dataclass(frozen=True)
class Options(ConsistencyOptions, ConfidenceOptions):
    """Options of AD-MT."""

    consistency: float = 2.0
    """Weight of the loss on unlabelled images at the end of its ramp."""
    consistency_rampup: int = 50
    """Length of that ramp in epochs of 150 iterations of the published run. Twice as many
    iterations pass before the teachers average: until then the turn's teacher is a copy of the
    student (see --lengths)."""
    ema_decay: float = 0.99
    """Decay of the EMA teachers after their warm-up."""
    turn: int = 50
    """Longest turn of a teacher in iterations; each turn's length is drawn between 1 and this
    number."""
    select_network: Literal["student", "teacher_a", "teacher_b"] = "student"
    """Network that is selected, tested and exported."""

    def check(self) -> None:
        if not 0 <= self.ema_decay <= 1:
            raise UserError(f"--ema_decay {self.ema_decay}: must lie between 0 and 1")
        if not 1 <= self.turn < 2**31:
            raise UserError(f"--turn {self.turn}: must be at least 1")


class ADMT(ConfidentStage[Options]):
    """A student and two teachers that follow it in turns. Teacher averages cover batch-norm
    statistics."""

    name = "train"

    def __init__(self, context: StageContext[Options]) -> None:
        super().__init__(context)
        self.time = published_time(context, PUBLISHED_ITERATIONS)
        self.turns = Turns(self.options.turn, context.seed)
        self.unsupervised = Loss({UNSUPERVISED[context.dims]: 1.0}, dice_2d)
        first = self.add_teacher(TEACHERS[0])
        second = self.add_teacher(TEACHERS[1], context.network(1))
        self.averages = (Ema(first, self.student), Ema(second, self.student))
        self.selected = self.options.select_network
        self.validated = ("student", *TEACHERS)
        if context.dims == 3 and self.selected != TEACHERS[1]:
            self.validated = ("student", TEACHERS[0])  # the published code, to save time

    def begin(self) -> None:
        """Start the teachers with their own first weights."""

    def losses(self, batch: Batch, step: int) -> Iterator[StepLoss]:
        labelled, weak = split_batch(batch)
        target = self.target(weak, step)
        self.thresholds.see(target.confidence, target.label)
        if self.turns.number(step) % 2:
            strong, target = self.mixed(weak, target)
        else:
            strong = strong_view(weak)
        count = len(labelled)
        logits = self.forward(torch.cat([labelled, weak, strong]))  # (L + 2 U, K, ...)
        student_probabilities = softmax(logits[count : count + len(weak)].detach())
        self.log("conflict", target.conflict.float().mean())
        self.log("kept_before", self.trusted(target).mean())
        target = compromise(target, student_probabilities)
        trusted = self.trusted(target)
        self.log("kept", trusted.mean())
        self.log_pseudo_labels(target.label, trusted=trusted)
        self.show(labelled, logits, batch["label"])

        loss = self.loss.of_whole(logits[:count], batch["label"])
        unsupervised = self.unsupervised.whole(logits[-len(weak) :], target.label, mask=trusted)
        weight = ramped_consistency(self.options, self.time.step(step))
        self.log("consistency_weight", weight)
        self.log("loss_supervised", loss.total)
        (value,) = unsupervised.values()
        yield loss.plus("unsupervised", value, weight)

    @torch.no_grad()
    def target(self, image: Tensor, step: int) -> EnsembleTarget:
        """Return the teachers' target for images (U, C, ...): the turn's teacher in training mode,
        the other one in eval mode."""
        active = self.turns.number(step) % 2
        probabilities: list[Tensor] = []
        for number, name in enumerate(TEACHERS):
            self.networks[name].train(number == active)
            probabilities.append(softmax(self.call(name, image)))
        return ensemble(*probabilities)

    def mixed(self, image: Tensor, target: EnsembleTarget) -> tuple[Tensor, EnsembleTarget]:
        """Return images (U, C, ...) with a box of another one in each, and their target."""
        partners = self.draw_partners(image)
        box = self.draw_boxes(image)  # (U, ...)
        mixed_target = EnsembleTarget(*(cutmix(x, x[partners], box) for x in target))
        return cutmix(image, image[partners], box), mixed_target

    def draw_partners(self, image: Tensor) -> Tensor:
        """Draw for each image (U, C, ...) the number of the one that is cut into it."""
        return torch.randperm(len(image), device=image.device)

    def draw_boxes(self, image: Tensor) -> Tensor:
        """Draw CutMix boxes for images (U, C, ...): a mask (U, ...), True in the box."""
        parameter = torch.full((), MIXING, device=image.device)
        mixing = torch.distributions.Beta(parameter, MIXING).sample()
        shape = image.shape[2:]
        centres: list[Tensor] = []
        for side in shape:
            first = side // FIRST_CENTRE
            centres.append(torch.randint(first, side, (len(image),), device=image.device))
        return boxes_around(centres, shape, mixing)

    def trusted(self, target: EnsembleTarget) -> Tensor:
        """Return a mask (U, ...), 1.0 where the pseudo label is confident."""
        return self.thresholds.trusted(target.confidence, target.label)

    def after_step(self, step: int) -> None:
        self.averages[self.turns.number(step) % 2].update(self.ema_decay(step))
        super().after_step(step)

    def ema_decay(self, step: int) -> float:
        """Return the decay of step `step`: 0 until the teachers average, then with a warm-up that
        counts every second step."""
        start = self.time.first(2 * self.options.consistency_rampup)
        if step < start:
            return 0.0
        return ema_decay_with_warm_up((step - start) // 2, self.options.ema_decay)


class Turns:
    """The turns of the teachers, counted from 0: even ones are teacher a's. Their lengths follow
    from the seed."""

    def __init__(self, longest: int, seed: tuple[int, ...]) -> None:
        self.longest = longest
        self.generator = np.random.default_rng(seed)
        self.ends: list[int] = []

    def number(self, step: int) -> int:
        """Return the turn in which step `step` lies."""
        while not self.ends or self.ends[-1] <= step:
            length = int(self.generator.integers(1, self.longest, endpoint=True))
            self.ends.append(sum(self.ends[-1:]) + length)
        return bisect_right(self.ends, step)


METHOD = Method(
    title="AD-MT",
    options=Options,
    presets={
        **SGD_PRESETS,
        "exp": "ad_mt",
        "losses": (("dice_squared", 0.5), ("ce", 0.5)),
        "lr_schedule": "poly_late",
        "max_iterations": PUBLISHED_ITERATIONS[2],
    },
    presets_of_dims={
        3: {
            "consistency_rampup": 40,
            "confidence": 0.8,
            "turn": 19,
            "max_iterations": PUBLISHED_ITERATIONS[3],
            "batch_size": 4,
            "labeled_bs": 2,
        }
    },
    stages=(StageSpec(ADMT),),
)
