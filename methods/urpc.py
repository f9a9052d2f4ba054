"""URPC (Luo et al., MICCAI 2021; MedIA 2022): a network whose predictions at four resolutions must
agree.

Each level of the decoder predicts the whole image. All four learn the labels. On unlabelled images
each is drawn to their mean, less where it diverges most from that mean: the divergence is its
uncertainty. The finest prediction is validated and tested.

Cost of a step: one student pass over the batch, with three small heads more; no teacher. Published
protocol: ACDC, 12 + 12 slices of 256 x 256, 30 000 iterations, SGD 0.01 with the rate of
`poly_late`; best on the validation list. Volumes: 2 + 2 patches, 60 000 iterations, SGD 0.1. The
published 3-D network is another one; ours is the V-Net with the same heads.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.base import Batch, Method, StageContext, StageSpec, TrainingStage, at_least_float32
from methods.helpers import SGD_PRESETS, ConsistencyOptions, published_time, ramped_consistency
from utils.losses import StepLoss, weighted_sum

PUBLISHED_ITERATIONS = {2: 30_000, 3: 60_000}


@dataclass(frozen=True)
class Options(ConsistencyOptions):
    """Those of the consistency loss."""


class UncertaintyRectifiedPyramid(TrainingStage[Options]):
    """The mean of four supervised losses, and the rectified consistency of the four predictions."""

    name = "train"

    def __init__(self, context: StageContext[Options]) -> None:
        super().__init__(context)
        self.time = published_time(context, PUBLISHED_ITERATIONS)

    def losses(self, batch: Batch, step: int) -> Iterator[StepLoss]:
        label = batch["label"]
        count = len(label)
        levels = self.call_with_auxiliary("student", batch["image"])  # four times (N, K, ...)
        parts = [self.loss.whole(logits[:count], label) for logits in levels]
        consistency = rectified_consistency([logits[count:] for logits in levels])
        weight = ramped_consistency(self.options, self.time.step(step))
        self.show(batch["image"], levels[0], label)
        self.log("consistency_weight", weight)
        for name, value in parts[0].items():
            self.log(f"finest_{name}", value)
        share = 1 / len(levels)
        loss = self.loss.combine(weighted_sum(*((part, share) for part in parts)))
        yield loss.plus("consistency", consistency, weight)


def rectified_consistency(levels: Sequence[Tensor]) -> Tensor:
    """Return the mean over logits (U, K, ...) of all levels of their distance from the mean
    probabilities.

    With p the level's probabilities, m the mean of all levels' and v = KL(m || p) in each pixel,
    the distance is mean((m - p)^2 exp(-v)) / mean(exp(-v)) + mean(v). The gradient flows through m
    and v.
    """
    log_probabilities = [F.log_softmax(at_least_float32(logits), 1) for logits in levels]
    # the logarithm of the mean stays finite where every probability rounds to 0
    log_mean = torch.stack(log_probabilities).logsumexp(0) - math.log(len(levels))
    mean = log_mean.exp()
    distances: list[Tensor] = []
    for log_one in log_probabilities:
        divergence = (mean * (log_mean - log_one)).sum(1, keepdim=True)  # (U, 1, ...)
        trust = (-divergence).exp()
        rectified = ((mean - log_one.exp()).square() * trust).mean() / (trust.mean() + 1e-8)
        distances.append(rectified + divergence.mean())
    return torch.stack(distances).mean()


METHOD = Method(
    title="URPC",
    options=Options,
    presets={
        **SGD_PRESETS,
        "exp": "urpc",
        "model": "unet_urpc",
        "losses": (("dice_squared", 0.5), ("ce", 0.5)),
        "lr_schedule": "poly_late",
        "max_iterations": PUBLISHED_ITERATIONS[2],
    },
    presets_of_dims={
        3: {
            "model": "VNet_urpc",
            "base_lr": 0.1,
            "consistency_rampup": 400,
            "max_iterations": PUBLISHED_ITERATIONS[3],
            "batch_size": 4,
            "labeled_bs": 2,
        }
    },
    auxiliary="levels",
    stages=(StageSpec(UncertaintyRectifiedPyramid),),
)
