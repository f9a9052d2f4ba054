"""UA-MT (Yu et al., MICCAI 2019): a mean teacher whose consistency loss counts only where the
teacher is certain.

The mean of eight stochastic predictions of the teacher has an entropy in each pixel, its
uncertainty. Pixels above a threshold are ignored; the threshold rises from 0.75 ln 2 to ln 2 during
training. Everything else is `mean_teacher`, without its hold.

Cost of a step: one student pass over the batch, nine teacher passes over the unlabelled half.
Published protocol: LA, 2 + 2 patches of 112 x 112 x 80, 6 000 iterations, SGD 0.01, divided by 10
after 2 500 and 5 000; last checkpoint. On ACDC as `mean_teacher` (code: SSL4MIS).
"""

from dataclasses import dataclass

from torch import Tensor

from methods import mean_teacher
from methods.base import Method, StageContext, StageSpec
from methods.helpers import (
    entropy,
    monte_carlo_probabilities,
    total_steps,
    uncertainty_threshold,
)


@dataclass(frozen=True)
class Options(mean_teacher.Options):
    """Options of UA-MT."""

    consistency_start: int = 0
    """Iterations of the published run before which the consistency loss is 0 (see --lengths)."""


class UncertaintyAwareMeanTeacher(mean_teacher.MeanTeacher):
    """A mean teacher with a mask of certain pixels."""

    def __init__(self, context: StageContext[Options]) -> None:
        super().__init__(context)
        self.steps = total_steps(context)

    def consistency(self, probabilities: Tensor, unlabelled: Tensor, step: int) -> Tensor:
        """Return the squared distance from the teacher over the certain pixels; 0 if there are
        none.

        The divisor 2 is the number of classes of LA. The published code keeps it for other numbers
        of classes.
        """
        target = self.teacher_probabilities(unlabelled)
        mean = monte_carlo_probabilities(self.call_teacher, unlabelled, passes=4)
        is_certain = entropy(mean) < uncertainty_threshold(step, self.steps)  # (U, ...)
        certain = is_certain.to(mean.dtype)
        difference = (probabilities - target).square().sum(1)
        self.log("certain", certain.mean())
        return (difference * certain).sum() / (2 * certain.sum() + 1e-16)

    def call_teacher(self, image: Tensor) -> Tensor:
        """Return the teacher's logits (N, K, ...) of images (N, C, ...)."""
        return self.call(mean_teacher.TEACHER, image)


METHOD = Method(
    title="UA-MT",
    options=Options,
    presets={**mean_teacher.METHOD.presets, "exp": "ua_mt"},
    presets_of_dims={
        3: {
            **mean_teacher.METHOD.presets_of_dims[3],
            "losses": (("dice_foreground", 0.5), ("ce", 0.5)),
        }
    },
    stages=(StageSpec(UncertaintyAwareMeanTeacher),),
)
