"""DTC (Luo et al., AAAI 2021): segmentation and regression of signed distances must agree.

On labelled images one head learns the mask, the other the signed distance to its boundary. On all
images, the distance is turned into a mask by a steep sigmoid, and the squared difference of both
masks is the consistency loss.

Cost of a step: one pass over the batch, and distance maps of the labelled images.

Published protocol: LA, one foreground class, 2 + 2 patches, 6 000 iterations, SGD 0.01, a tenth
every 2 500; last checkpoint. Several classes, with one distance map each, and slices are ours.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from methods.base import Batch, Method, StageContext, StageSpec, TrainingStage, at_least_float32
from methods.helpers import (
    SGD_PRESETS,
    ConsistencyOptions,
    mean_squared_difference,
    published_time,
    ramped_consistency,
    softmax,
)
from utils.distance import signed_distances
from utils.errors import UserError
from utils.losses import StepLoss

PUBLISHED_ITERATIONS = {2: 30_000, 3: 6_000}
STEEPNESS = 1500


@dataclass(frozen=True)
class Options(ConsistencyOptions):
    """Options of DTC."""

    distance_weight: float = 0.3
    """Weight of the loss on signed distances."""

    def check(self) -> None:
        if not 0 <= self.distance_weight < 2**63:
            raise UserError(f"--distance_weight {self.distance_weight}: must be at least 0")


class DualTask(TrainingStage[Options]):
    """Learn mask and signed distance of the labelled images, and agreement of both on all."""

    name = "train"

    def __init__(self, context: StageContext[Options]) -> None:
        super().__init__(context)
        self.time = published_time(context, PUBLISHED_ITERATIONS)

    def losses(self, batch: Batch, step: int) -> Iterator[StepLoss]:
        label = batch["label"]
        count = len(label)
        logits, distance = self.call_with_auxiliary("student", batch["image"])
        distance = at_least_float32(distance)  # (N, K - 1, ...)
        target = signed_distances(label, classes=logits.shape[1])
        regression = mean_squared_difference(distance[:count], target)
        consistency = mean_squared_difference(mask_of(distance), softmax(logits)[:, 1:])
        weight = ramped_consistency(self.options, self.time.step(step))
        loss = self.loss.of_whole(logits[:count], label)
        loss = loss.plus("distance", regression, self.options.distance_weight)
        self.show(batch["image"], logits, label)
        self.log("consistency_weight", weight)
        yield loss.plus("consistency", consistency, weight)


def mask_of(distance: Tensor) -> Tensor:
    """Return the soft mask of signed distances, nearly a step.

    It is 1 inside (negative distances), 0 outside and one half on the boundary.
    """
    return torch.sigmoid(-STEEPNESS * distance)


METHOD = Method(
    title="DTC",
    options=Options,
    presets={
        **SGD_PRESETS,
        "exp": "dtc",
        "model": "unet_dtc",
        "losses": (("dice_foreground", 1.0),),
        "lr_schedule": "poly_late",
        "max_iterations": PUBLISHED_ITERATIONS[2],
    },
    presets_of_dims={
        3: {
            "model": "VNet_dtc",
            "consistency": 1.0,
            "consistency_rampup": 40,
            "lr_schedule": "two_drops",
            "max_iterations": PUBLISHED_ITERATIONS[3],
            "batch_size": 4,
            "labeled_bs": 2,
            "select": "last",
        }
    },
    auxiliary="distance",
    stages=(StageSpec(DualTask),),
)
