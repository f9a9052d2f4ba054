"""Dropout whose random numbers do not cost as much as a convolution."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STEPS = 2**16


class Dropout(nn.Dropout):
    """`nn.Dropout`, on the CPU by 16 random bits an element, a fourth of a draw, where torch's own spends 4 to 10 ns (bernoulli_).

    There the rate is rounded to 1 / 65 536, and what is kept is scaled by the rounded rate. Other draws than torch's, of its generator.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or not self.p or not input.is_cpu or torch.compiler.is_compiling():
            return F.dropout(input, self.p, self.training)
        return input * kept(input, self.p)


def kept(x: Tensor, rate: float) -> Tensor:
    """0 for the share `rate` of the elements of x, 1 / (1 - rate) for the others; of x's shape, type and layout in memory."""
    dropped = round(STEPS * rate)
    if dropped == STEPS:
        return torch.zeros_like(x)
    bits = (
        torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    )  # four numbers a draw
    bits = bits[: x.numel()].as_strided(x.shape, torch.empty_like(x).stride())
    return (bits >= dropped - STEPS // 2).to(x.dtype).mul_(STEPS / (STEPS - dropped))
