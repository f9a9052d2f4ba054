"""SS-Net (Wu et al., MICCAI 2022): smooth predictions and compact classes.

Predictions must not change when the image moves a little in the direction that changes them most
(virtual adversarial training). The features of each class are drawn to a memory of features of
correctly predicted labelled pixels.

Cost of a step: four passes of the whole batch, three of them differentiated, and small heads on
every pixel.

Published protocol: ACDC, 12 + 12 slices of 256 x 256, 30 000 iterations, SGD 0.01, constant; best
on the validation list. LA, 2 + 2 patches, 15 000 iterations, SGD 0.01, a tenth every 2 500; best on
the test list.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from methods.base import Batch, Method, StageContext, StageSpec, TrainingStage
from methods.class_memory import ClassMemory
from methods.helpers import (
    SGD_PRESETS,
    ConsistencyOptions,
    published_time,
    ramped_consistency,
    softmax,
)
from networks.base import Network
from networks.contrast import ContrastiveHeads
from networks.norm import frozen_statistics
from utils.errors import UserError
from utils.losses import StepLoss

PUBLISHED_ITERATIONS = {2: 30_000, 3: 15_000}
HEADS = "heads"
SEARCH_LENGTH = 10.0
"""Length of the step that searches for the direction in which predictions change most."""
GRADIENT_SCALE = 2.0**16
"""Keeps the gradient of that search above the smallest numbers of float16.

A power of two changes no digit in float32.
"""


@dataclass(frozen=True)
class Options(ConsistencyOptions):
    """Options of SS-Net."""

    contrast_weight: float = 0.1
    """Weight of the contrastive losses relative to the smoothness loss."""
    vat_epsilon: float = 6.0
    """Length of the adversarial step on an image, over all its pixels together."""

    def check(self) -> None:
        for name, value in (
            ("contrast_weight", self.contrast_weight),
            ("vat_epsilon", self.vat_epsilon),
        ):
            if not 0 <= value < 2**63:
                raise UserError(f"--{name} {value}: must be at least 0")


class SSNet(TrainingStage[Options]):
    """Learn the labels, contrast on both halves of the batch, and smoothness on all images."""

    name = "train"

    def __init__(self, context: StageContext[Options]) -> None:
        super().__init__(context)
        self.time = published_time(context, PUBLISHED_ITERATIONS)
        self.first_iteration = 0
        if context.dims == 3:  # this published code increases its counter before the ramp reads it
            self.first_iteration = 1
        channels = cast(Network, self.student).feature_channels
        device = next(self.student.parameters()).device
        # their first weights are drawn after the student's, from the same seed
        heads = ContrastiveHeads(channels, context.classes)
        self.add_learner(HEADS, heads.to(device))
        self.memory = ClassMemory(heads, context.classes, device)

    def losses(self, batch: Batch, step: int) -> Iterator[StepLoss]:
        label = batch["label"]
        count = len(label)
        logits, feature = self.call_with_auxiliary("student", batch["image"])
        predicted = logits.argmax(1)
        is_correct = (predicted[:count] == label) & (label > 0)
        self.memory.replace(feature[:count], label, is_correct)
        labelled = self.memory.distance(feature[:count], label)
        unlabelled = self.memory.distance(feature[count:], predicted[count:])
        weight = self.consistency_weight(step)
        loss = self.loss.of_whole(logits[:count], label)
        loss = loss.plus("contrast_labelled", labelled, weight * self.options.contrast_weight)
        loss = loss.plus("contrast_unlabelled", unlabelled, weight * self.options.contrast_weight)
        self.show(batch["image"], logits, label)
        self.log("consistency_weight", weight)
        self.log("correct_foreground", is_correct.sum())
        yield loss  # its backward pass frees the graph of this pass before the next ones are made
        smoothness = self.smoothness(batch["image"])
        yield StepLoss(weight * smoothness, {"loss_vat": smoothness})

    def consistency_weight(self, step: int) -> float:
        """Return the weight of the unsupervised losses, which rises in steps of 150 iterations."""
        return ramped_consistency(self.options, self.time.step(step) + self.first_iteration)

    def smoothness(self, image: Tensor) -> Tensor:
        """Return how much the probabilities of images (N, C, ...) change along the worst direction.

        This is virtual adversarial training (Miyato et al., TPAMI 2018). All passes are in training
        mode. Only the first one moves the running statistics of batch norm.
        """
        with torch.no_grad():
            target = softmax(self.forward(image))
        with frozen_statistics(self.student):
            direction = unit_length(random_direction(image)).requires_grad_()
            moved = softmax(self.forward(image + SEARCH_LENGTH * direction))
            scaled = GRADIENT_SCALE * dice_distance(moved, target)
            (gradient,) = torch.autograd.grad(scaled, direction)
            direction = unit_length(gradient / GRADIENT_SCALE)
            moved = softmax(self.forward(image + self.options.vat_epsilon * direction))
        return dice_distance(moved, target)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "memory": list(self.memory.vectors.values())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        vectors = self.memory.vectors
        for number, saved in zip(list(vectors), state["memory"], strict=True):
            vectors[number] = saved.to(vectors[number].device)


def random_direction(image: Tensor) -> Tensor:
    """Return uniform numbers between -0.5 and 0.5 in the shape of the images."""
    return torch.rand_like(image) - 0.5


def unit_length(x: Tensor) -> Tensor:
    """Return the samples (N, ...) divided by their Euclidean norms."""
    norms = x.flatten(1).square().sum(1).sqrt() + 1e-8
    return x / norms.view(-1, *[1] * (x.ndim - 1))


def dice_distance(first: Tensor, second: Tensor) -> Tensor:
    """Return 1 - the soft Dice of two probability maps (N, K, ...), the mean over all classes.

    Its denominators are squared, and sums are over the whole batch.
    """
    axes = [0, *range(2, first.ndim)]
    overlap = (first * second).sum(axes)
    sizes = first.square().sum(axes) + second.square().sum(axes)
    return (1 - (2 * overlap + 1e-10) / (sizes + 1e-10)).mean()


METHOD = Method(
    title="SS-Net",
    options=Options,
    presets={
        **SGD_PRESETS,
        "exp": "ss_net",
        "model": "unet",
        "losses": (("dice", 1.0),),
        "lr_schedule": "constant",
        "max_iterations": PUBLISHED_ITERATIONS[2],
    },
    presets_of_dims={
        3: {
            "model": "VNet",
            "losses": (("dice_foreground_plain", 1.0),),
            "consistency": 1.0,
            "consistency_rampup": 40,
            "vat_epsilon": 10.0,
            "lr_schedule": "step",
            "lr_drop_every": 2_500,
            "max_iterations": PUBLISHED_ITERATIONS[3],
            "batch_size": 4,
            "labeled_bs": 2,
        }
    },
    auxiliary="feature",
    stages=(StageSpec(SSNet),),
)
