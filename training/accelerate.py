"""Faster ways to call the networks of a stage: compiled, and on CUDA as recorded graphs."""

import os
import shutil
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from methods.base import CompiledCalls, LossFunction, TrainingStage
from utils.errors import UserError
from utils.losses import StepLoss

Accelerate = Literal["off", "compile", "graph"]


def check_accelerate(
    how: Accelerate,
    device: torch.device,
    recompute: bool,
    over_processes: bool = False,
    amp: torch.dtype | None = None,
) -> None:
    """Raise UserError where networks cannot be called in that way."""
    if how == "off":
        return
    if recompute:
        raise UserError(
            f"--accelerate {how}: not with --recompute, whose second passes it would record once and for all; leave one of them out"
        )
    if over_processes:
        raise UserError(
            f"--accelerate {how}: not with --sync_batch_norm, whose messages break every graph; leave one of them out"
        )
    if device.type not in (("cuda",) if how == "graph" else ("cuda", "cpu")):
        raise UserError(f"--accelerate {how}: not for {device.type}; use --accelerate off")
    if device.type == "cpu" and amp is not None:  # docs/performance.md, --accelerate compile
        lost = (
            "for which torch's compiler makes code that loses gradients and says nothing (2.13.0)"
        )
        raise UserError(
            f"--accelerate {how}: not with half precision on the CPU, {lost}; leave it out, or use --amp off"
        )
    if device.type == "cpu" and not shutil.which(os.environ.get("CXX", "g++")):
        raise UserError(
            "--accelerate compile: needs a C++ compiler for the CPU, and there is no g++ here (another: set CXX)"
        )


def accelerated(
    stage: TrainingStage, how: Accelerate, backend: str = "inductor"
) -> CompiledCalls | None:
    """The networks of a stage, a pass of its student with its loss, and a loss alone, as one graph each without a break; None for `off`.

    The loop makes the first step of a stage without them. They share weights and statistics with the stage's own, which validation,
    checkpoints and averages go on using. `graph`: torch records what a pass asks of the device, backward too, and asks for it all at once
    from then on.
    """
    if how == "off":
        return None
    torch.compiler.reset()  # what an earlier stage compiled: of one function there can be but a few variants
    mode = {"mode": "reduce-overhead"} if how == "graph" else {}
    whole = partial(torch.compile, fullgraph=True, dynamic=False, backend=backend, **mode)
    student = stage.student

    def loss_of(function: LossFunction, logits: Tensor, *targets: Any) -> StepLoss:
        return function(logits, *targets)

    def forward_with_loss(
        x: Tensor, function: LossFunction, *targets: Any
    ) -> tuple[Tensor, StepLoss]:
        logits = student(x)
        return logits, function(logits, *targets)

    networks = {**stage.networks, **stage.half_precision_copies}
    return CompiledCalls(
        networks={name: whole(net) for name, net in networks.items()},
        forward_with_loss=whole(forward_with_loss),
        loss_of=whole(loss_of),
    )


class GradientGuard:
    """Holds the first accelerated step's gradients against those of the eager one before it. A compiler that loses gradients gives the
    right losses, so nothing else would tell (docs/performance.md: bfloat16 on the CPU)."""

    def __init__(self, stage: TrainingStage):
        self.stage = stage
        self._learning: set[str] | None = None  # in the eager step
        self._done = False

    def look(self) -> None:
        """To be called after every step, with its gradients; does nothing after the second. Raises UserError where convolutions that had
        a gradient have none."""
        if self._done:
            return
        learning = learning_convolutions(self.stage)
        if self._learning is None:
            self._learning = learning
            return
        self._done = True
        if lost := sorted(self._learning - learning):
            raise UserError(
                f"--accelerate: torch {torch.__version__} compiles this so that {len(lost)} of {len(self._learning)} convolutions "
                f"learn nothing ({lost[0]} ...); use --accelerate off, or another --amp"
            )


def learning_convolutions(stage: TrainingStage) -> set[str]:
    """Convolutions of the learners whose weights have a gradient that is not zero everywhere. Other weights may have none in one step:
    those of a gate whose only hidden unit is off."""
    weights = {
        f"{name}.{key}": parameter.grad
        for name, net in stage.learners.items()
        for key, parameter in net.named_parameters()
        if parameter.ndim > 2 and parameter.grad is not None
    }
    found = (
        torch.stack([gradient.any() for gradient in weights.values()]).tolist() if weights else []
    )
    return {name for name, any_of in zip(weights, found, strict=True) if any_of}
