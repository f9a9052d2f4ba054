"""Exponential moving average of a student in a teacher."""

from typing import Literal

import torch
from torch import Tensor, nn

EmaScope = Literal["state", "parameters"]


def _entries(net: nn.Module, scope: EmaScope) -> list[Tensor]:
    return list(net.parameters()) if scope == "parameters" else list(net.state_dict(keep_vars=True).values())


class Ema:
    """teacher = decay * teacher + (1 - decay) * student, in place, at every `update`.

    `state`: every entry of the state dict, batch-norm statistics among them (ACDC); whole numbers are cut off as the published code does.
    `parameters`: the parameters only, each network keeping its own statistics (3-D).
    The tensors are looked up once, so neither network may be moved or given other tensors afterwards; loading a state is fine.
    """

    def __init__(self, teacher: nn.Module, student: nn.Module, decay: float, scope: EmaScope = "state"):
        self.decay = decay
        pairs = list(zip(_entries(teacher, scope), _entries(student, scope), strict=True))
        kinds = [[pair for pair in pairs if pair[0].is_floating_point() == kind] for kind in (True, False)]
        self.floats, self.wholes = ([list(column) for column in zip(*kind, strict=True)] or [[], []] for kind in kinds)

    @torch.no_grad()
    def update(self) -> None:
        mine, theirs = self.floats
        torch._foreach_mul_(mine, self.decay)
        torch._foreach_add_(mine, theirs, alpha=1 - self.decay)
        counters, others = self.wholes
        if counters:  # all of them in one tensor: a handful of launches, not a handful for each
            mean = self.decay * torch.stack(counters) + (1 - self.decay) * torch.stack(others)
            torch._foreach_copy_(counters, mean.to(counters[0].dtype).unbind())


@torch.no_grad()
def copy_state(teacher: nn.Module, student: nn.Module) -> None:
    """The student's whole state into the teacher."""
    torch._foreach_copy_(_entries(teacher, "state"), _entries(student, "state"))
