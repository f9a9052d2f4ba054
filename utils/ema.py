"""Exponential moving average of a student in a teacher."""

from typing import Literal

import torch
from torch import nn

EmaScope = Literal["state", "parameters"]


@torch.no_grad()
def ema_update(teacher: nn.Module, student: nn.Module, decay: float, scope: EmaScope = "state") -> None:
    """teacher = decay * teacher + (1 - decay) * student, in place.

    `state`: every entry of the state dict, batch-norm statistics among them (ACDC); whole numbers are cut off as the published code does.
    `parameters`: the parameters only, each network keeping its own statistics (3-D).
    """
    if scope == "parameters":
        mine, theirs = list(teacher.parameters()), list(student.parameters())
    else:
        mine, theirs = list(teacher.state_dict().values()), list(student.state_dict().values())
    pairs = list(zip(mine, theirs, strict=True))
    floats = [(a, b) for a, b in pairs if a.is_floating_point()]
    torch._foreach_mul_([a for a, _ in floats], decay)
    torch._foreach_add_([a for a, _ in floats], [b for _, b in floats], alpha=1 - decay)
    for a, b in pairs:
        if not a.is_floating_point():
            a.copy_((decay * a + (1 - decay) * b).to(a.dtype))


def warmed_up(decay: float, step: int) -> float:
    """The decay after step `step` (from 0): min(1 - 1 / (step + 1), decay), the plain mean of all steps until `decay` is reached
    (Tarvainen & Valpola, NeurIPS 2017, their code)."""
    return min(1 - 1 / (step + 1), decay)


@torch.no_grad()
def copy_state(teacher: nn.Module, student: nn.Module) -> None:
    """The student's whole state into the teacher."""
    for a, b in zip(teacher.state_dict().values(), student.state_dict().values(), strict=True):
        a.copy_(b)
