"""Losses of BCP (CVPR 2023) and its edge-guided successor: Dice and cross entropy on parts of a copy-pasted image.

Shapes: logits (N, K, ...), targets (N, ...) of class numbers, masks (...) or (N, ...) with 1 where a pixel counts.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class DiceCE(NamedTuple):
    """Dice loss and cross entropy, kept apart because recipes weigh them differently."""

    dice: Tensor
    ce: Tensor

    def __add__(self, other: "DiceCE") -> "DiceCE":
        return DiceCE(self.dice + other.dice, self.ce + other.ce)


def one_hot(target: Tensor, classes: int) -> Tensor:
    """(N, ...) class numbers to (N, classes, ...) float32."""
    return (target.unsqueeze(1) == torch.arange(classes, device=target.device).view(-1, *[1] * (target.ndim - 1))).float()


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """sum(values * mask) / (sum(mask) + 1e-16); `mask` broadcasts to `values` (N, ...)."""
    mask = mask.expand_as(values)
    return (values * mask).sum() / (mask.sum() + 1e-16)


def dice_loss_2d(probabilities: Tensor, truth: Tensor, mask: Tensor, mask_background: bool = False) -> Tensor:
    """Dice over the whole batch with squared denominators, mean over classes, smooth 1e-10.

    probabilities, truth: (N, K, H, W), truth one-hot; mask broadcasts to (N, H, W).
    Class 0 (background) counts outside the mask too unless `mask_background`: so the edge-guided code has it; BCP's authors
    mended theirs (its issue 25).
    """
    weight = mask.expand_as(truth[:, 0]).unsqueeze(1)  # (N, 1, H, W)
    if not mask_background:
        weight = torch.cat([torch.ones_like(weight), weight.expand(-1, truth.shape[1] - 1, *weight.shape[2:])], 1)
    axes = [0, *range(2, truth.ndim)]
    overlap = (probabilities * truth * weight).sum(axes)  # (K,)
    sizes = (probabilities.square() * weight).sum(axes) + (truth * weight).sum(axes)
    return (1 - (2 * overlap + 1e-10) / (sizes + 1e-10)).mean()


def dice_loss_3d(probabilities: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """Dice of every sample and class, plain denominators, smooth 1e-5; 1 - the mean over samples and classes.

    probabilities, truth: (N, K, D, H, W), truth one-hot; mask broadcasts to (N, D, H, W).
    """
    weight = mask.expand_as(truth[:, 0]).unsqueeze(1)  # (N, 1, D, H, W)
    axes = tuple(range(2, truth.ndim))
    overlap = (probabilities * truth * weight).sum(axes)  # (N, K)
    sizes = (probabilities * weight).sum(axes) + (truth * weight).sum(axes)
    return 1 - ((2 * overlap + 1e-5) / (sizes + 1e-5)).mean()


DiceLoss = Callable[[Tensor, Tensor, Tensor], Tensor]


def mix_loss(
    logits: Tensor,
    outside: Tensor,
    inside: Tensor,
    mask: Tensor,
    weight_outside: float = 1.0,
    weight_inside: float = 1.0,
    dice: DiceLoss = dice_loss_2d,
) -> DiceCE:
    """Loss of one mixed image: `outside` is the label where mask = 1, `inside` where mask = 0, each with its own weight.

    logits (N, K, ...), labels (N, ...) integer, mask (...) float. A weight is 1 for true labels and u_weight for pseudo labels.
    """
    log_probabilities = F.log_softmax(logits, 1)
    probabilities = log_probabilities.exp()
    total = DiceCE(logits.new_zeros(()), logits.new_zeros(()))
    for label, part, weight in ((outside, mask, weight_outside), (inside, 1 - mask, weight_inside)):
        truth = one_hot(label, logits.shape[1])
        ce = -(log_probabilities * truth).sum(1)
        total += DiceCE(weight * dice(probabilities, truth, part), weight * masked_mean(ce, part))
    return total


def supervised_loss(logits: Tensor, label: Tensor, dice: DiceLoss = dice_loss_2d) -> DiceCE:
    """Loss of whole images with one label (N, ...) each."""
    everywhere = torch.ones(label.shape[1:], device=logits.device)
    log_probabilities = F.log_softmax(logits, 1)
    return DiceCE(dice(log_probabilities.exp(), one_hot(label, logits.shape[1]), everywhere), F.cross_entropy(logits, label.long()))
