"""SS-Net (Wu et al., MICCAI 2022): smooth predictions, and features of one class that lie close together.

Predictions must not change when the image moves a little in the direction that changes them most (virtual adversarial training). The
features of each class are drawn to a memory of features of correctly predicted labelled pixels.

Cost of a step: four passes of the whole batch, three of them differentiated, and small heads on every pixel.
Published protocol: ACDC, 12 + 12 slices of 256 x 256, 30 000 iterations, SGD 0.01, constant; best on the validation list. LA, 2 + 2
patches, 15 000 iterations, SGD 0.01, a tenth every 2 500; best on the test list.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.base import Batch, Method, StageContext, StageSpec, TrainingStage, at_least_float32
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
MEMORY_SIZE = 32
SEARCH_LENGTH = 10.0
"""Length of the step that searches for the direction in which predictions change most."""
GRADIENT_SCALE = 2.0**16
"""Keeps the gradient of that search above the smallest numbers of float16; a power of two changes no digit in float32."""


@dataclass(frozen=True)
class Options(ConsistencyOptions):
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
    """Labelled images against their labels; contrast on both halves of the batch; smoothness on all images.

    `memory` holds up to 32 projected features (M, 32) of each foreground class. How many pixels of a class are in a batch decides the
    shapes of tensors here, so a step waits for the device once for each class.
    """

    name = "train"

    def __init__(self, context: StageContext[Options]):
        super().__init__(context)
        self.time = published_time(context, PUBLISHED_ITERATIONS)
        self.classes = context.classes
        features = cast(Network, self.student).feature_channels
        heads = ContrastiveHeads(features, self.classes)  # drawn after the student, from its seed
        device = next(self.student.parameters()).device
        self.heads = heads.to(device)
        self.add_learner(HEADS, self.heads)
        self.memory = {
            number: torch.zeros(0, MEMORY_SIZE, device=device) for number in range(1, self.classes)
        }

    def losses(self, batch: Batch, step: int) -> Iterator[StepLoss]:
        label = batch["label"]
        count = len(label)
        logits, feature = self.call_with_auxiliary("student", batch["image"])
        predicted = logits.argmax(1)
        self.remember(feature[:count], predicted[:count], label)
        labelled = self.contrast(feature[:count], label)
        unlabelled = self.contrast(feature[count:], predicted[count:])
        weight = ramped_consistency(self.options, self.time.step(step))
        loss = self.loss.of_whole(logits[:count], label)
        loss = loss.plus("contrast_labelled", labelled, weight * self.options.contrast_weight)
        loss = loss.plus("contrast_unlabelled", unlabelled, weight * self.options.contrast_weight)
        self.show(batch["image"], logits, label)
        self.log("consistency_weight", weight)
        yield loss  # the graph of this pass is freed before those of the smoothness loss are made
        smoothness = self.smoothness(batch["image"])
        yield StepLoss(weight * smoothness, {"loss_vat": smoothness.detach()})

    @torch.no_grad()
    def remember(self, feature: Tensor, predicted: Tensor, label: Tensor) -> None:
        """Replace the memory of each class by projections of its correctly predicted labelled pixels.

        feature (L, C, ...), predicted and label (L, ...). Of more than 32 pixels those with the lowest ranks are kept, as published. A
        class without such a pixel keeps its memory.
        """
        is_correct = (predicted == label) & (predicted > 0)
        self.log("correct_foreground", is_correct.sum())
        self.heads.eval()
        projected = at_least_float32(self.heads.project(pixels(feature)[is_correct.flatten()]))
        self.heads.train()
        classes = label[is_correct]
        for number in self.memory:
            vectors = projected[classes == number]
            if len(vectors) > MEMORY_SIZE:
                order = self.heads.rank(vectors, number).argsort(stable=True)
                vectors = vectors[order[:MEMORY_SIZE]]
            if len(vectors):
                self.memory[number] = vectors

    def contrast(self, feature: Tensor, label: Tensor) -> Tensor:
        """Return the distance of the predictions of all foreground pixels to the memories of their classes.

        feature (N, C, ...), label (N, ...). The sum over the foreground classes is divided by the number of all classes, as published.
        """
        vectors = at_least_float32(self.heads.predict(pixels(feature)))
        label = label.flatten()
        # keeps the selectors of absent classes in the graph: processes then exchange gradients of the same parameters
        total = 0 * torch.stack([weights.sum() for weights in self.heads.parameters()]).sum()
        for number, memory in self.memory.items():
            mine = vectors[label == number]
            if len(memory) > 1 and len(mine) > 1:
                ranks = self.heads.rank(mine.detach(), number)
                total = total + distance_to_memory(mine, memory, ranks)
        return total / self.classes

    def smoothness(self, image: Tensor) -> Tensor:
        """Return how much the probabilities of images (N, C, ...) change along the worst direction (VAT, Miyato et al., TPAMI 2018).

        All passes are in training mode. Only the first one moves the running statistics of batch norm.
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
        return {**super().state_dict(), "memory": list(self.memory.values())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        for number, vectors in zip(self.memory, state["memory"], strict=True):
            self.memory[number] = vectors.to(self.memory[number].device)


def pixels(feature: Tensor) -> Tensor:
    """Return features (N, C, ...) as one row for each pixel, (P, C)."""
    return feature.movedim(1, -1).flatten(0, -2)


def distance_to_memory(vectors: Tensor, memory: Tensor, ranks: Tensor) -> Tensor:
    """Return the weighted mean of 1 - cosine over all pairs of vectors (P, D) and memory (M, D).

    The weight of a vector is its rank (P,) divided by the mean rank. The mean over the memory is taken first: cosines are linear in its
    normalised vectors.
    """
    similarity = F.normalize(vectors, dim=1) @ F.normalize(memory, dim=1).mean(0)  # (P,)
    weights = len(ranks) * ranks / ranks.sum()
    return (weights * (1 - similarity)).mean()


def random_direction(image: Tensor) -> Tensor:
    """Return uniform numbers between -0.5 and 0.5 in the shape of the images."""
    return torch.rand_like(image) - 0.5


def unit_length(x: Tensor) -> Tensor:
    """Return the samples (N, ...) divided by their Euclidean norms."""
    norms = x.flatten(1).square().sum(1).sqrt() + 1e-8
    return x / norms.view(-1, *[1] * (x.ndim - 1))


def dice_distance(first: Tensor, second: Tensor) -> Tensor:
    """Return 1 - the soft Dice of two probability maps (N, K, ...), squared denominators, mean over all classes."""
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
