"""MC-Net (Wu et al., MICCAI 2021) and MC-Net+ (MedIA 2022): several decoders must agree.

Two decoders (MC-Net) or three (MC-Net+) share an encoder and differ in how they double their maps.
On all images, the probabilities of each decoder are drawn to the sharpened ones of every other
decoder. The first decoder is validated and tested.

Cost of a step: one pass of the whole batch through the encoder and through each decoder.

Published protocol: ACDC, 12 + 12 slices of 256 x 256, 30 000 iterations, SGD 0.01, constant; best
on the validation list. LA and Pancreas, 2 + 2 patches, 15 000 iterations, SGD 0.01, constant; best
on the test list.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from methods.base import Batch, Method, StageContext, StageSpec, TrainingStage
from methods.helpers import (
    SGD_PRESETS,
    ConsistencyOptions,
    mean_squared_difference,
    published_time,
    ramped_consistency,
    sharpen,
    softmax,
)
from utils.losses import StepLoss, weighted_sum

PUBLISHED_ITERATIONS = {2: 30_000, 3: 15_000}


@dataclass(frozen=True)
class Options(ConsistencyOptions):
    """Those of the consistency loss."""


class MCNet(TrainingStage[Options]):
    """All decoders learn the labels, and each one the sharpened probabilities of the others."""

    name = "train"

    def __init__(self, context: StageContext[Options]) -> None:
        super().__init__(context)
        self.time = published_time(context, PUBLISHED_ITERATIONS)

    def losses(self, batch: Batch, step: int) -> Iterator[StepLoss]:
        labelled = len(batch["label"])
        decoded = self.call_with_auxiliary("student", batch["image"])  # (N, K, ...) of each decoder
        parts = [(self.loss.whole(one[:labelled], batch["label"]), 1.0) for one in decoded]
        consistency = mutual_consistency([softmax(one) for one in decoded])
        # the published counter is increased before the ramp reads it
        weight = ramped_consistency(self.options, self.time.step(step) + 1)
        loss = self.loss.combine(weighted_sum(*parts))
        self.show(batch["image"], decoded[0], batch["label"])
        self.log("consistency_weight", weight)
        yield loss.plus("consistency", consistency, weight)


def mutual_consistency(probabilities: Sequence[Tensor]) -> Tensor:
    """Return the consistency loss of outputs (N, K, ...).

    It is the sum over all ordered pairs of the mean of (p_i - sharpen(p_j))^2. The gradient also
    flows through the sharpened output.
    """
    sharpened = [sharpen(one) for one in probabilities]
    differences: list[Tensor] = []
    for i, output in enumerate(probabilities):
        for j, target in enumerate(sharpened):
            if i != j:
                differences.append(mean_squared_difference(output, target))
    return torch.stack(differences).sum()


METHOD = Method(
    title="MC-Net",
    options=Options,
    presets={
        **SGD_PRESETS,
        "exp": "mc_net",
        "model": "unet_mcnet",
        "losses": (("half_dice", 1.0),),
        "lr_schedule": "constant",
        "max_iterations": PUBLISHED_ITERATIONS[2],
    },
    presets_of_dims={
        3: {
            "model": "VNet_mcnet",
            "losses": (("dice_foreground_plain", 0.5),),
            "consistency": 1.0,
            "consistency_rampup": 40,
            "max_iterations": PUBLISHED_ITERATIONS[3],
            "batch_size": 4,
            "labeled_bs": 2,
        }
    },
    auxiliary="decoders",
    stages=(StageSpec(MCNet),),
)
