"""Dropout from 16 random bits per element, on the CPU.

Replaces `dropout` (tests/test_fast_operations.py compares them); torch's own `bernoulli_` takes 4
to 10 ns per element.
"""

import torch
from torch import Tensor

from networks import operations

STEPS = 2**16


@operations.dropout.replace_by
def dropout(x: Tensor, rate: float) -> Tensor:
    """Drop elements of x; on the CPU `rate` is rounded to a multiple of 1 / 65 536, and kept
    elements are scaled by the rounded rate.

    Random numbers come from torch's generator, but the draws differ from those of
    `torch.nn.functional.dropout`.
    """
    if not x.is_cpu or torch.compiler.is_compiling():
        return operations.dropout.formula(x, rate)
    return x * kept(x, rate)


def kept(x: Tensor, rate: float) -> Tensor:
    """Draw the factors of dropout: 0 with probability `rate`, else 1 / (1 - rate); shape, type and
    memory layout are those of x.
    """
    dropped = round(STEPS * rate)
    if dropped == STEPS:
        return torch.zeros_like(x)
    draws = (x.numel() + 3) // 4  # each 64-bit draw gives four 16-bit numbers
    numbers = torch.empty(draws, dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    numbers = numbers[: x.numel()].as_strided(x.shape, torch.empty_like(x).stride())
    is_kept = numbers >= dropped - STEPS // 2
    return is_kept.to(x.dtype).mul_(STEPS / (STEPS - dropped))
