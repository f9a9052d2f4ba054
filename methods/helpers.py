"""What semi-supervised methods share: published lengths, EMA warm-up, ramps, Monte Carlo dropout,
sharpening, confidence, CutMix, pseudo labels.

Shapes: logits and probabilities (N, K, ...), images (N, C, ...), labels and masks (N, ...).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from methods.base import StageContext, at_least_float32
from utils.errors import UserError
from utils.schedules import STEPS_PER_EPOCH, sigmoid_rampup

SGD_PRESETS: Mapping[str, Any] = {
    "egm": "none",
    "unit": "iteration",
    "val_every": 200,
    "optimizer": "sgd",
    "base_lr": 0.01,
    "lr_drop_every": 0,
    "weight_decay": 1e-4,
}
"""What the published codes of most methods have in common, for `Method.presets`."""
LA_PRESETS: Mapping[str, Any] = {
    "consistency_rampup": 40,
    "lr_schedule": "two_drops",
    "max_iterations": 6_000,
    "batch_size": 4,
    "labeled_bs": 2,
    "select": "last",
}
"""The protocol of UA-MT and DTC on LA, for `Method.presets_of_dims[3]`."""


@dataclass(frozen=True)
class LengthOptions:
    """Options of methods with published numbers of iterations."""

    lengths: Literal["relative", "published"] = "relative"
    """What a published number of iterations means in a shorter or longer run. relative: the same
    share of the run as in the published run. published: the same number of iterations.
    """


@dataclass(frozen=True)
class PublishedTime:
    """Translate an iteration of this run into one of the published run, from which ramps and holds
    are then computed.

    The rule: iteration t of a run of `length` iterations stands for iteration
    floor(t * published / length) of the published run of `published` iterations. With
    `--lengths published` it stands for itself. Runs of the published length are the same in both
    ways.
    """

    published: int
    length: int

    def step(self, step: int) -> int:
        """Return the iteration of the published run that iteration `step` (from 0) stands for."""
        return step * self.published // self.length

    def first(self, published_step: int) -> int:
        """Return the first iteration of this run that stands for iteration `published_step` of the
        published run or a later one.
        """
        return math.ceil(published_step * self.length / self.published)


def published_time(
    context: StageContext[LengthOptions], published: Mapping[int, int]
) -> PublishedTime:
    """Return the rule for a stage; `published`: iterations of the published run on 2-D and on 3-D
    data, by the number of axes.
    """
    iterations = published[context.dims]
    if context.options.lengths == "published":
        return PublishedTime(iterations, iterations)
    return PublishedTime(iterations, total_steps(context))


def total_steps(context: StageContext[object]) -> int:
    """Return the length of the stage in iterations."""
    if context.epoch is None:
        return context.length
    return context.length * context.epoch


@dataclass(frozen=True)
class ConsistencyOptions(LengthOptions):
    """Options of methods with a consistency loss whose weight rises."""

    consistency: float = 0.1
    """Weight of the loss on unlabelled images at the end of its ramp."""
    consistency_rampup: int = 200
    """Length of that ramp in epochs of 150 iterations of the published run (see --lengths)."""

    def check(self) -> None:
        if not 0 <= self.consistency < 2**63:
            raise UserError(f"--consistency {self.consistency}: must be at least 0")
        if not 1 <= self.consistency_rampup < 2**63:
            raise UserError(f"--consistency_rampup {self.consistency_rampup}: must be at least 1")


def ramped_consistency(options: ConsistencyOptions, published_step: int) -> float:
    """Return the weight of the consistency loss: `consistency` times the ramp at an iteration of
    the published run.
    """
    return options.consistency * consistency_ramp(published_step, options.consistency_rampup)


def softmax(logits: Tensor) -> Tensor:
    """Return probabilities (N, K, ...) in float32 or better."""
    return at_least_float32(logits).softmax(1)


def ema_decay_with_warm_up(step: int, decay: float) -> float:
    """Return the EMA decay of step `step` (from 0): min(1 - 1 / (step + 1), decay).

    The teacher equals the student after the first step and averages over a longer time from step to
    step (Tarvainen & Valpola, NeurIPS 2017).
    """
    return min(1 - 1 / (step + 1), decay)


def consistency_ramp(step: int, length: int) -> float:
    """Return the ramp exp(-5 (1 - t / length)^2) with t = step // 150, the usual weight of a
    consistency loss.
    """
    return sigmoid_rampup(step // STEPS_PER_EPOCH, length)


def gaussian_noise(image: Tensor, scale: float = 0.1, limit: float = 0.2) -> Tensor:
    """Return the images with Gaussian noise of standard deviation `scale` added, clipped to
    +-`limit`.
    """
    noise = torch.randn_like(image) * scale
    return image + noise.clamp(-limit, limit)


@torch.no_grad()
def monte_carlo_probabilities(
    network: Callable[[Tensor], Tensor], image: Tensor, passes: int, copies: int = 2
) -> Tensor:
    """Return the mean probabilities (N, K, ...) of `passes` passes over `copies` noisy copies of
    the images.

    The network must be in training mode, so that its dropout is active
    (UA-MT, MICCAI 2019: 4 passes of 2 copies).
    """
    total: Tensor | None = None
    for _ in range(passes):
        repeated = image.repeat(copies, *[1] * (image.ndim - 1))
        probabilities = softmax(network(gaussian_noise(repeated)))
        summed = probabilities.reshape(copies, len(image), *probabilities.shape[1:]).sum(0)
        total = summed if total is None else total + summed
    if total is None:
        raise ValueError("passes must be at least 1")
    return total / (passes * copies)


def entropy(probabilities: Tensor) -> Tensor:
    """Return the entropy (N, ...) in nats, between 0 and ln K."""
    return -(probabilities * (probabilities + 1e-6).log()).sum(1)


def uncertainty_threshold(step: int, total: int) -> float:
    """Return the entropy below which UA-MT trusts a pixel: it rises from 3/4 to 1 times ln 2 during
    training.
    """
    return (0.75 + 0.25 * sigmoid_rampup(step, total)) * math.log(2)


def sharpen(probabilities: Tensor, power: float = 10.0) -> Tensor:
    """Return p^power / (p^power + (1 - p)^power) of each class (MC-Net, MICCAI 2021)."""
    yes = probabilities**power
    no = (1 - probabilities) ** power
    return yes / (yes + no)


def hard_pseudo_label(logits: Tensor) -> Tensor:
    """Return the class numbers (N, ...) of the largest logits, without gradient."""
    return logits.detach().argmax(1)


def cutmix(x: Tensor, partner: Tensor, mask: Tensor) -> Tensor:
    """Return `x` with `partner` where the mask (N, ...) is 1; images (N, C, ...) or labels (N, ...)
    (CutMix, ICCV 2019).
    """
    if x.ndim > mask.ndim:
        mask = mask.unsqueeze(1)
    return torch.where(mask.bool(), partner, x)


BOX_PROBABILITY = 0.5
BOX_SHARES = (0.02, 0.4)
"""Smallest and largest share of the image that a CutMix box covers."""
BOX_RATIO = 0.3
"""Smallest ratio of a CutMix box's first two sides, relative to those of the image; the largest is
its inverse.
"""


def cutmix_boxes(shape: Sequence[int], seed: Sequence[int], device: torch.device) -> Tensor:
    """Draw a CutMix box for each image of shape (N, C, ...) (UniMatch, CVPR 2023).

    Returns a mask (N, ...) on the device, 1 in the box; half of the images have none. The draws
    follow from `seed`.
    """
    generator = np.random.default_rng(tuple(seed))
    sides = shape[2:]
    mask = torch.zeros(shape[0], *sides, device=device)
    for image in mask:
        if generator.random() < BOX_PROBABILITY:
            box = draw_box(sides, generator)
            image[box].fill_(1)  # on the device itself, so nothing is copied to it
    return mask


def draw_box(sides: Sequence[int], generator: np.random.Generator) -> tuple[slice, ...]:
    """Draw a box that lies within an image of those sides: its share of the image, the ratio of its
    first two sides and its place.

    Ratio and place are drawn again until the box fits.
    """
    share = generator.uniform(*BOX_SHARES) ** (1 / len(sides))
    while True:
        ratio = generator.uniform(BOX_RATIO, 1 / BOX_RATIO)
        factors = np.ones(len(sides))
        factors[:2] = (math.sqrt(ratio), 1 / math.sqrt(ratio))
        lengths = (np.array(sides) * share * factors).astype(int)
        first = generator.integers(sides)
        if (first + lengths <= sides).all():
            return tuple(slice(a, a + n) for a, n in zip(first, lengths, strict=True))


def boxes_around(centres: Sequence[Tensor], shape: Sequence[int], mixing: Tensor) -> Tensor:
    """Return a mask (N, ...), True in boxes whose sides are sqrt(1 - mixing) of the image's sides,
    cut off at its border.

    `centres`: on each axis the position (N,) of the boxes' centres. `shape`: of an image. `mixing`:
    one number.
    """
    fraction = (1 - mixing).sqrt()
    inside = torch.ones(len(centres[0]), *shape, dtype=torch.bool, device=mixing.device)
    for axis, (side, centre) in enumerate(zip(shape, centres, strict=True)):
        half = (side * fraction).long() // 2
        positions = torch.arange(side, device=mixing.device)
        first = (centre - half).unsqueeze(1)
        last = (centre + half).unsqueeze(1)
        within = (positions >= first) & (positions < last)  # (U, side)
        ones_before = [1] * axis
        ones_after = [1] * (len(shape) - axis - 1)
        inside &= within.view(len(centre), *ones_before, side, *ones_after)
    return inside


def mean_squared_difference(first: Tensor, second: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the mean over all entries of (first - second)^2; with a mask (N, ...), over the pixels
    where it is 1.
    """
    difference = (first - second).square()
    if mask is None:
        return difference.mean()
    per_pixel = difference.mean(1)
    return (per_pixel * mask).sum() / (mask.sum() + 1e-16)
