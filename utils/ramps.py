"""Schedules that follow the training step."""

import math


def sigmoid_rampup(current: float, length: float) -> float:
    """exp(-5 (1 - t)^2) with t = current / length held in 0..1 (Laine & Aila, arXiv 1610.02242)."""
    t = min(max(current / length, 0.0), 1.0)
    return math.exp(-5 * (1 - t) ** 2)


def consistency_weight(step: int) -> float:
    """The weight that the published code computes and logs but uses in no loss: 0.5 at the ramp's end after 30 000 steps."""
    return 0.5 * sigmoid_rampup(step // 150, 200)
