"""Learning-rate schedules by name, and the ramp of the consistency weight."""

import math
from collections.abc import Callable
from functools import partial

Schedule = Callable[[int, int], float]  # (step, total) -> factor on the base learning rate
SCHEDULES: dict[str, Callable[..., float]] = {}
STEPS_PER_EPOCH = 150
"""Iterations that published codes of this field count as an epoch of their ramps."""


def learning_rate(function: Callable[..., float]) -> Callable[..., float]:
    """Register a schedule under its name for `--lr_schedule` and `--pre_lr_schedule`."""
    SCHEDULES[function.__name__] = function
    return function


def schedule(name: str, drop_every: int) -> Schedule:
    """Return the schedule of that name.

    `drop_every`: the number of steps between two drops of `step`.
    """
    if name == "step":
        return partial(step, every=drop_every)
    return SCHEDULES[name]


@learning_rate
def constant(step: int, total: int) -> float:
    """Return 1 at every step."""
    return 1.0


@learning_rate
def step(step: int, total: int, every: int) -> float:
    """Multiply by 0.1 after every `every` steps; never if `every` is 0."""
    if every == 0:
        return 1.0
    return 0.1 ** (step // every)


@learning_rate
def two_drops(step: int, total: int) -> float:
    """Multiply by 0.1 after 5/12 and after 10/12 of the run.

    These are 2 500 and 5 000 of the 6 000 iterations of UA-MT, DTC and DeSCO.
    """
    return 0.1 ** (12 * step // (5 * total))


@learning_rate
def poly(step: int, total: int) -> float:
    """(1 - step / total)^0.9 (DeepLab, arXiv 1606.00915)."""
    return (1 - step / total) ** 0.9


@learning_rate
def poly_late(step: int, total: int) -> float:
    """Return `poly` one step late, so that the first two steps have the full rate.

    The codes of SSL4MIS (mean teacher, UA-MT, URPC), UniMatch and AD-MT set the rate after a step,
    from the number of that step.
    """
    return poly(max(step - 1, 0), total)


@learning_rate
def cosine(step: int, total: int) -> float:
    """Half a cosine from 1 to 0 (SGDR, arXiv 1608.03983)."""
    return (1 + math.cos(math.pi * step / total)) / 2


def sigmoid_rampup(current: float, length: float) -> float:
    """Return exp(-5 (1 - t)^2) with t = current / length clipped to 0..1.

    Source: Laine & Aila, arXiv 1610.02242.
    """
    t = min(max(current / length, 0.0), 1.0)
    return math.exp(-5 * (1 - t) ** 2)


def consistency_weight(step: int) -> float:
    """Return the consistency weight of the published code, which uses it in no loss.

    The code only logs it. It reaches 0.5 after 30 000 steps.
    """
    return 0.5 * sigmoid_rampup(step // STEPS_PER_EPOCH, 200)
