"""Exponential moving average of a student's weights, kept by a teacher."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from utils.pseudo_label import copy_all

EmaScope = Literal["state", "parameters"]


def _entries(net: nn.Module, scope: EmaScope) -> list[Tensor]:
    """The tensors of a network that an average of this scope covers."""
    if scope == "parameters":
        return list(net.parameters())
    return list(net.state_dict(keep_vars=True).values())


class _Pairs(NamedTuple):
    """Tensors of the teacher and the student's tensors in the same order."""

    teacher: list[Tensor]
    student: list[Tensor]


class Ema:
    """Each `update` sets teacher = decay * teacher + (1 - decay) * student, in place.

    `state`: averages every entry of the state dict, including batch-norm statistics (ACDC). Integer
    entries are averaged and truncated, as in the published code.
    `parameters`: averages only the parameters; each network keeps its own statistics (3-D). The
    tensors are looked up at the first update. After it neither network may be moved to another
    device; loading a state is allowed.
    """

    def __init__(self, teacher: nn.Module, student: nn.Module, scope: EmaScope = "state") -> None:
        """Average `student` into `teacher`, which must have the same structure."""
        self.teacher = teacher
        self.student = student
        self.scope: EmaScope = scope
        self._pairs: tuple[_Pairs, _Pairs] | None = None

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """Average once."""
        if self._pairs is None:
            self._pairs = self._paired()
        fractions, counters = self._pairs
        torch._foreach_mul_(fractions.teacher, decay)  # pyright: ignore[reportPrivateImportUsage]
        torch._foreach_add_(fractions.teacher, fractions.student, alpha=1 - decay)  # pyright: ignore[reportPrivateImportUsage]
        if counters.teacher:
            # one tensor for all: a few kernel launches in total instead of a few per counter
            mean = decay * torch.stack(counters.teacher) + (1 - decay) * torch.stack(
                counters.student
            )
            averaged = mean.to(counters.teacher[0].dtype).unbind()
            copy_all(counters.teacher, averaged)

    def _paired(self) -> tuple[_Pairs, _Pairs]:
        """Return the tensors of both networks: floating-point ones, then integers."""
        fractions = _Pairs([], [])
        counters = _Pairs([], [])
        ours = _entries(self.teacher, self.scope)
        theirs = _entries(self.student, self.scope)
        for mine, other in zip(ours, theirs, strict=True):
            pairs = counters
            if mine.is_floating_point():
                pairs = fractions
            pairs.teacher.append(mine)
            pairs.student.append(other)
        return fractions, counters


@torch.no_grad()
def copy_state(teacher: nn.Module, student: nn.Module) -> None:
    """Copy the student's whole state into the teacher."""
    copy_all(_entries(teacher, "state"), _entries(student, "state"))
