"""Faster ways to call the networks of a phase: compiled, and on CUDA as recorded graphs."""

import os
import shutil
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from utils.errors import UserError
from utils.phase import Phase

Accelerate = Literal["off", "compile", "graph"]


def check_accelerate(how: Accelerate, device: torch.device, recompute: bool, over_processes: bool = False) -> None:
    """Raise UserError where networks cannot be called in that way."""
    if how == "off":
        return
    if recompute:
        raise UserError(
            f"--accelerate {how}: not with --recompute, whose second passes it would record once and for all; leave one of them out"
        )
    if over_processes:
        raise UserError(f"--accelerate {how}: not with --sync_batch_norm, whose messages break every graph; leave one of them out")
    if device.type not in (("cuda",) if how == "graph" else ("cuda", "cpu")):
        raise UserError(f"--accelerate {how}: not for {device.type}; use --accelerate off")
    if device.type == "cpu" and not shutil.which(os.environ.get("CXX", "g++")):
        raise UserError("--accelerate compile: needs a C++ compiler for the CPU, and there is no g++ here (another: set CXX)")


def accelerated(phase: Phase, how: Accelerate, backend: str = "inductor") -> dict[str, Callable[[Tensor], Tensor]]:
    """The networks of a phase by name, as one graph each without a break; empty for `off`.

    They share weights and statistics with the phase's own, which validation, checkpoints and averages go on using. `graph`: torch records
    what a pass asks of the device, backward too, and asks for it all at once from then on.
    """
    if how == "off":
        return {}
    mode = {"mode": "reduce-overhead"} if how == "graph" else {}
    return {name: torch.compile(net, fullgraph=True, dynamic=False, backend=backend, **mode) for name, net in phase.networks.items()}
