"""Pseudo labels of two teachers for unlabelled images, and when a student may contradict them
(AD-MT, ECCV 2024).

Shapes: probabilities (U, K, ...), classes and masks (U, ...).
"""

from typing import NamedTuple

import torch
from torch import Tensor


class EnsembleTarget(NamedTuple):
    """The teachers' predictions of unlabelled images: class, its probability, and whether the
    teachers disagree, (U, ...) each."""

    label: Tensor
    confidence: Tensor
    conflict: Tensor


def ensemble(first: Tensor, second: Tensor) -> EnsembleTarget:
    """Return the target of two teachers' probabilities (U, K, ...), each weighted by exp(-entropy
    in bits)."""
    first_weight = (-entropy_in_bits(first)).exp()
    second_weight = (-entropy_in_bits(second)).exp()
    total = first_weight + second_weight
    probabilities = first * (first_weight / total) + second * (second_weight / total)
    confidence, label = probabilities.max(1)
    return EnsembleTarget(label, confidence, first.argmax(1) != second.argmax(1))


def entropy_in_bits(probabilities: Tensor) -> Tensor:
    """Return the entropy (U, 1, ...) of probabilities (U, K, ...)."""
    return -(probabilities * (probabilities + 1e-10).log2()).sum(1, keepdim=True)


def compromise(target: EnsembleTarget, student: Tensor) -> EnsembleTarget:
    """Return the target with the student's class where the teachers disagree and the student is
    surer of another class.

    `student`: its probabilities (U, K, ...) of the weak images, which are not mixed.
    """
    confidence, label = student.max(1)
    taken = target.conflict & (label != target.label) & (confidence > target.confidence)
    return EnsembleTarget(
        torch.where(taken, label, target.label),
        torch.where(taken, confidence, target.confidence),
        target.conflict,
    )
