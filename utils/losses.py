"""Loss terms by name, and their weighted sum on whole and on copy-pasted images.

Shapes: logits (N, K, ...), labels (N, ...) of class numbers, truth (N, K, ...) one-hot, masks (...)
or (N, ...), 1 where a pixel counts.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Prediction(NamedTuple):
    """Softmax of logits, (N, K, ...) each; computed once for all terms."""

    log_probabilities: Tensor
    probabilities: Tensor


class StepLoss(NamedTuple):
    """The loss of one backward pass.

    `total` is differentiated, `scalars` are logged next to it. `steps_now`: the learner whose
    optimiser steps right after this backward pass; None: all learners step after the last loss.
    """

    total: Tensor
    scalars: dict[str, Tensor]
    steps_now: str | None = None

    def plus(self, name: str, value: Tensor, weight: Tensor | float = 1.0) -> "StepLoss":
        """Return this loss with `weight * value` added, logged as `loss_<name>`."""
        scalars = {**self.scalars, f"loss_{name}": value}
        return self._replace(total=self.total + weight * value, scalars=scalars)

    def renamed(self, suffix: str) -> "StepLoss":
        """Return this loss with `_<suffix>` added to the names of its scalars."""
        return self._replace(scalars={f"{name}_{suffix}": x for name, x in self.scalars.items()})

    def then_step(self, learner: str) -> "StepLoss":
        """Return this loss with the request that `learner` steps right after it.

        The learner steps before the next loss is formed, and not again in this step.
        """
        return self._replace(steps_now=learner)


Term = Callable[[Prediction, Tensor, Tensor], Tensor]  # (prediction, truth, mask) -> scalar
Parts = dict[str, Tensor]
TERMS: dict[str, Term] = {}


def term(function: Term) -> Term:
    """Register a loss term under its name for `--losses` and `--pre_losses`."""
    TERMS[function.__name__] = function
    return function


def one_hot(label: Tensor, classes: int) -> Tensor:
    """Convert class numbers (N, ...) to a one-hot tensor (N, classes, ...) float32."""
    numbers = torch.arange(classes, device=label.device)
    numbers = numbers.view(-1, *[1] * (label.ndim - 1))
    return (label.unsqueeze(1) == numbers).float()


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return sum(values * mask) / (sum(mask) + 1e-16); `mask` broadcasts to `values` (N, ...)."""
    mask = mask.expand_as(values)
    return (values * mask).sum() / (mask.sum() + 1e-16)


@term
def ce(prediction: Prediction, truth: Tensor, mask: Tensor) -> Tensor:
    """Cross entropy, mean over the mask."""
    return masked_mean(-(prediction.log_probabilities * truth).sum(1), mask)


@term
def ce_sqrt(prediction: Prediction, truth: Tensor, mask: Tensor) -> Tensor:
    """Cross entropy of own data: a weighted mean over the mask, each pixel weighted by 1 / sqrt(n).

    n is the number of pixels of its class in the batch and the mask. A class then weighs in with
    sqrt(n) instead of n, so that a class of a few hundred voxels is learned before the background
    has pushed its probability towards 0.
    """
    weight = mask.expand_as(truth[:, 0]).unsqueeze(1)  # (N, 1, ...)
    axes = [0, *range(2, truth.ndim)]
    sizes = (truth * weight).sum(axes)  # (K,)
    class_weights = torch.where(sizes > 0, sizes.clamp_min(1e-16).rsqrt(), 0.0)
    shape = (1, -1, *[1] * (truth.ndim - 2))
    pixel_weights = truth * weight * class_weights.view(shape)
    return -(prediction.log_probabilities * pixel_weights).sum() / (pixel_weights.sum() + 1e-16)


@term
def focal(prediction: Prediction, truth: Tensor, mask: Tensor) -> Tensor:
    """Cross entropy weighted by (1 - probability of the true class)^2 (Lin et al., ICCV 2017)."""
    log_probability = (prediction.log_probabilities * truth).sum(1)
    return masked_mean(-((1 - log_probability.exp()).square()) * log_probability, mask)


def dice_2d(
    prediction: Prediction,
    truth: Tensor,
    mask: Tensor,
    mask_background: bool = False,
    smooth: float = 1e-10,
) -> Tensor:
    """Return the Dice loss that is the term `dice` of 2-D data sets.

    Sums run over the whole batch, denominators are squared, and the result is the mean over
    classes.

    Unless `mask_background`, class 0 (background) also counts outside the mask, as in the published
    edge-guided code. BCP's authors fixed this in their code (issue 25 of their repository).
    """
    p = prediction.probabilities  # (N, K, H, W)
    weight = mask.expand_as(truth[:, 0]).unsqueeze(1)  # (N, 1, H, W)
    if not mask_background:
        foreground = weight.expand(-1, truth.shape[1] - 1, *weight.shape[2:])
        weight = torch.cat([torch.ones_like(weight), foreground], 1)
    axes = [0, *range(2, truth.ndim)]
    overlap = (p * truth * weight).sum(axes)  # (K,)
    sizes = (p.square() * weight).sum(axes) + (truth * weight).sum(axes)
    return (1 - (2 * overlap + smooth) / (sizes + smooth)).mean()


@term
def dice_squared(prediction: Prediction, truth: Tensor, mask: Tensor) -> Tensor:
    """Return the Dice loss of SSL4MIS, UniMatch and AD-MT.

    Sums run over the whole batch, denominators are squared, smooth is 1e-5, and the result is the
    mean over all classes.
    """
    return dice_2d(prediction, truth, mask, mask_background=True, smooth=1e-5)


@term
def dice_foreground(prediction: Prediction, truth: Tensor, mask: Tensor) -> Tensor:
    """Return `dice_squared` without the background.

    UA-MT, DTC and DeSCO use it for their one foreground class.
    """
    foreground = Prediction(*(part[:, 1:] for part in prediction))
    return dice_squared(foreground, truth[:, 1:], mask)


@term
def half_dice(prediction: Prediction, truth: Tensor, mask: Tensor) -> Tensor:
    """Return MC-Net's Dice loss for slices.

    Sums run over the whole batch. The factor 2 is missing, so the loss lies between 0.5 and 1. The
    result is the mean over all classes.
    """
    p = prediction.probabilities  # (N, K, H, W)
    weight = mask.expand_as(truth[:, 0]).unsqueeze(1)
    axes = [0, *range(2, truth.ndim)]
    overlap = (p * truth * weight).sum(axes)  # (K,)
    sizes = (p.square() * weight).sum(axes) + (truth * weight).sum(axes)
    return (1 - overlap / (sizes + 1e-10)).mean()


@term
def dice_foreground_plain(prediction: Prediction, truth: Tensor, mask: Tensor) -> Tensor:
    """Return the Dice loss of MC-Net and SS-Net for volumes.

    Sums run over the whole batch, denominators are plain, smooth is 1e-8, and the result is the
    mean over foreground classes.
    """
    p = prediction.probabilities[:, 1:]  # (N, K - 1, X, Y, Z)
    truth = truth[:, 1:]
    weight = mask.expand_as(truth[:, 0]).unsqueeze(1)
    axes = [0, *range(2, truth.ndim)]
    overlap = (p * truth * weight).sum(axes)  # (K - 1,)
    sizes = (p * weight).sum(axes) + (truth * weight).sum(axes)
    return (1 - (2 * overlap + 1e-8) / (sizes + 1e-8)).mean()


def dice_3d(prediction: Prediction, truth: Tensor, mask: Tensor) -> Tensor:
    """Return the Dice loss that is the term `dice` of 3-D data sets.

    It is 1 - mean Dice over samples and classes, with plain denominators and smooth 1e-5.
    """
    p = prediction.probabilities  # (N, K, X, Y, Z)
    weight = mask.expand_as(truth[:, 0]).unsqueeze(1)  # (N, 1, X, Y, Z)
    axes = tuple(range(2, truth.ndim))
    overlap = (p * truth * weight).sum(axes)  # (N, K)
    sizes = (p * weight).sum(axes) + (truth * weight).sum(axes)
    return 1 - ((2 * overlap + 1e-5) / (sizes + 1e-5)).mean()


@term
def dice_present(prediction: Prediction, truth: Tensor, mask: Tensor) -> Tensor:
    """Return the Dice loss of own data, over the whole batch and the classes present in it.

    1 - mean Dice over the classes, background included, of which the label has a voxel where the
    mask is above 0; 0 if there is none. Denominators are plain, smooth is 1e-5 (batch Dice of
    nnU-Net, Isensee et al., Nature Methods 2021). A term that also counts absent classes pushes
    their probabilities towards 0 in every batch, and a small class is absent from most batches.
    """
    p = prediction.probabilities  # (N, K, ...)
    weight = mask.expand_as(truth[:, 0]).unsqueeze(1)  # (N, 1, ...)
    axes = [0, *range(2, truth.ndim)]
    overlap = (p * truth * weight).sum(axes)  # (K,)
    truth_sizes = (truth * weight).sum(axes)
    sizes = (p * weight).sum(axes) + truth_sizes
    loss = 1 - (2 * overlap + 1e-5) / (sizes + 1e-5)
    is_present = (truth_sizes > 0).to(loss.dtype)
    return (loss * is_present).sum() / is_present.sum().clamp_min(1)


@dataclass(frozen=True)
class Loss:
    """A weighted sum of loss terms.

    `weights`: weight of each term by name. `dice`: the function that the name `dice` stands for,
    which depends on the data set. Raises KeyError for an unknown name.
    """

    weights: Mapping[str, float]
    dice: Term
    _terms: Mapping[str, Term] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Look up the terms."""
        terms: dict[str, Term] = {}
        for name in self.weights:
            if name == "dice":
                terms[name] = self.dice
            else:
                terms[name] = TERMS[name]
        object.__setattr__(self, "_terms", terms)

    def whole(self, logits: Tensor, label: Tensor, mask: Tensor | None = None) -> Parts:
        """Return the terms of whole images: logits (N, K, ...), labels (N, ...).

        `mask` (N, ...): 1 for the pixels that count, all by default.
        """
        if mask is None:
            mask = torch.ones(label.shape[1:], device=logits.device)
        return self._parts(predicted(logits), label, mask=mask)

    def mixed(
        self,
        logits: Tensor,
        outside: Tensor,
        inside: Tensor,
        mask: Tensor,
        weight_outside: float = 1.0,
        weight_inside: float = 1.0,
        trust_inside: Tensor | float = 1.0,
    ) -> Parts:
        """Return the terms of copy-pasted images.

        Their label is `outside` where mask = 1 and `inside` where mask = 0.

        `weight_outside` and `weight_inside` are 1 for true labels and u_weight for pseudo labels.
        `trust_inside` (N, ...) additionally weights every pixel of the inside.
        """
        prediction = predicted(logits)
        outside_parts = self._parts(prediction, outside, mask=mask)
        inside_parts = self._parts(prediction, inside, mask=(1 - mask) * trust_inside)
        return weighted_sum((outside_parts, weight_outside), (inside_parts, weight_inside))

    def of_whole(self, logits: Tensor, label: Tensor) -> StepLoss:
        """Return the loss of whole images: logits (N, K, ...), labels (N, ...)."""
        return self.combine(self.whole(logits, label))

    def of_mixed(
        self,
        logits: Tensor,
        outside: Tensor,
        inside: Tensor,
        mask: Tensor,
        weight_outside: float = 1.0,
        weight_inside: float = 1.0,
        trust_inside: Tensor | float = 1.0,
    ) -> StepLoss:
        """Return the loss of copy-pasted images; see `mixed`."""
        return self.combine(
            self.mixed(logits, outside, inside, mask, weight_outside, weight_inside, trust_inside)
        )

    def combine(self, parts: Parts) -> StepLoss:
        """Return the weighted sum of terms, with each term as a scalar to log."""
        weighted = [self.weights[name] * value for name, value in parts.items()]
        total = weighted[0]
        for value in weighted[1:]:
            total = total + value
        scalars = {f"loss_{name}": value for name, value in parts.items()}
        return StepLoss(total, scalars)

    def _parts(self, prediction: Prediction, label: Tensor, mask: Tensor) -> Parts:
        truth = one_hot(label, prediction.probabilities.shape[1])
        return {name: function(prediction, truth, mask) for name, function in self._terms.items()}


def predicted(logits: Tensor) -> Prediction:
    """Return log-softmax and softmax of logits (N, K, ...)."""
    log_probabilities = F.log_softmax(logits, 1)
    return Prediction(log_probabilities, log_probabilities.exp())


def weighted_sum(*terms: tuple[Parts, float]) -> Parts:
    """Return the weighted sum of several parts, term by term."""
    first, first_weight = terms[0]
    total = {name: first_weight * value for name, value in first.items()}
    for parts, weight in terms[1:]:
        for name in total:
            total[name] = total[name] + weight * parts[name]
    return total
