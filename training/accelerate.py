"""Faster ways to call the networks of a stage: compiled, and on CUDA as recorded graphs."""

import os
import shutil
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from methods.base import TrainingStage
from methods.stage_networks import CompiledCalls, LossFunction
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
    """Raise UserError if networks cannot be accelerated in that way.

    `over_processes`: whether batch norm uses the statistics of all processes.
    """
    if how == "off":
        return
    if recompute:  # a recorded graph would repeat the second passes of its first step
        raise UserError(
            f"--accelerate {how}: cannot be combined with --recompute; remove one of them"
        )
    if over_processes:  # the messages between processes break every graph
        raise UserError(
            f"--accelerate {how}: cannot be combined with --sync_batch_norm; remove one of them"
        )
    if how == "graph" and device.type != "cuda":
        raise UserError(f"--accelerate graph: not for {device.type}; use --accelerate off")
    if device.type == "cpu" and amp is not None:  # docs/performance.md, --accelerate compile
        raise UserError(
            f"--accelerate {how}: not with half precision on the CPU, where torch's compiler "
            "silently loses gradients (2.13.0); remove it, or use --amp off"
        )
    check_compiler(device)


def check_compiler(device: torch.device) -> None:
    """Raise UserError if torch cannot compile a network for the device."""
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--accelerate compile: not for {device.type}; use --accelerate off")
    if device.type == "cpu" and not shutil.which(os.environ.get("CXX", "g++")):
        raise UserError(
            "--accelerate compile: needs a C++ compiler for the CPU, and there is no g++ here; "
            "install it, or set CXX to another compiler"
        )


def accelerated(
    stage: TrainingStage[Any], how: Accelerate, backend: str = "inductor"
) -> CompiledCalls | None:
    """Return the compiled calls of a stage, each one graph without a break; None for `off`.

    The loop makes the first step of a stage without them. They share weights and statistics with
    the stage's own networks, which validation, checkpoints and averages continue to use. `graph`:
    torch records the device operations of a pass, backward too, and replays them from then on.
    """
    if how == "off":
        return None
    torch.compiler.reset()  # torch keeps only a few variants of a function: drop an earlier stage's
    mode = None
    if how == "graph":
        mode = "reduce-overhead"
    whole: Callable[..., Any] = partial(
        torch.compile,  # pyright: ignore[reportUnknownMemberType]
        fullgraph=True,
        dynamic=False,
        backend=backend,
        mode=mode,
    )
    student = stage.student

    def loss_of(function: LossFunction, logits: Tensor, *targets: object) -> StepLoss:
        return function(logits, *targets)

    def forward_with_loss(
        x: Tensor, function: LossFunction, *targets: object
    ) -> tuple[Tensor, StepLoss]:
        logits = student(x)
        return logits, function(logits, *targets)

    networks = {**stage.networks, **stage.half_precision_copies}
    return CompiledCalls(
        networks={name: whole(network) for name, network in networks.items()},
        forward_with_loss=whole(forward_with_loss),
        loss_of=whole(loss_of),
    )


class GradientGuard:
    """Compares the gradients of the first accelerated step with those of the eager step before it.

    A compiler that loses gradients gives the right losses, so nothing else would show it
    (docs/performance.md: bfloat16 on the CPU).
    """

    def __init__(self, stage: TrainingStage[Any]) -> None:
        """Watch the learners of `stage`."""
        self.stage = stage
        self._learning: set[str] | None = None  # in the eager step
        self._done = False

    def check_gradients(self) -> None:
        """Check the gradients of a step; does nothing after the second one.

        Raises UserError if convolutions that had a gradient in the eager step have none.
        """
        if self._done:
            return
        learning = learning_convolutions(self.stage)
        if self._learning is None:
            self._learning = learning
            return
        self._done = True
        lost = sorted(self._learning - learning)
        if lost:
            raise UserError(
                f"--accelerate: torch {torch.__version__} compiles this so that {len(lost)} of "
                f"{len(self._learning)} convolutions learn nothing ({lost[0]} ...); "
                "use --accelerate off, or another --amp"
            )


def learning_convolutions(stage: TrainingStage[Any]) -> set[str]:
    """Return the learners' convolutions whose weights have a gradient that is not zero everywhere.

    Other weights may have none in one step: those of a gate whose only hidden unit is off.
    """
    names: list[str] = []
    gradients: list[Tensor] = []
    for learner, network in stage.learners.items():
        for key, parameter in network.named_parameters():
            if parameter.ndim > 2 and parameter.grad is not None:
                names.append(f"{learner}.{key}")
                gradients.append(parameter.grad)
    if not gradients:
        return set()
    is_learning = torch.stack([gradient.any() for gradient in gradients]).cpu()
    return {name for name, learns in zip(names, is_learning, strict=True) if learns}
