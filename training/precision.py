"""The precision of a stage: float32, or autocast to bfloat16 or float16."""

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from methods.base import TrainingStage
from methods.stage_networks import Scalars
from training.device import autocast
from utils.errors import UserError
from utils.losses import StepLoss
from utils.pseudo_label import copy_all

CAST = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)
SMALLEST_SCALE = 2.0**-10


class Precision:
    """Autocast to `dtype`; None is float32 throughout.

    With float16 the loss is scaled before its backward pass, so that small gradients are not lost.
    If scaled gradients are not finite, the weights stay as they are and the scale is halved
    (Micikevicius et al., ICLR 2018; torch's GradScaler). Nothing here waits for the device.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype | None = None) -> None:
        """`dtype`: torch.bfloat16, torch.float16 or None."""
        self.device = device
        self.dtype = dtype
        self.scaler: torch.amp.GradScaler | None = None
        if dtype == torch.float16:
            self.scaler = torch.amp.GradScaler(device.type)
        self._weights: list[Tensor] = []
        self._halves: list[Tensor] = []

    def autocast(self) -> AbstractContextManager[Any]:
        """Return a context in which operations are autocast."""
        return autocast(self.device, self.dtype)

    def autocast_each(self, losses: Iterator[StepLoss]) -> Iterator[StepLoss]:
        """Compute the losses of a step one by one under autocast.

        What the caller does between two losses is not autocast.
        """
        while True:
            with self.autocast():
                loss = next(losses, None)
            if loss is None:
                return
            yield loss

    def prepare(
        self, stage: TrainingStage[Any], optimizers: Iterable[torch.optim.Optimizer]
    ) -> None:
        """Prepare a stage once, when its networks have their weights and are on the device."""
        if self.dtype is not None:
            for name, teacher in stage.teachers.items():
                stage.half_precision_copies[name] = self._half_precision_copy(teacher)
        if self.scaler is not None:
            for optimizer in optimizers:
                begin_momentum(optimizer)

    def _half_precision_copy(self, net: nn.Module) -> nn.Module:
        """Return the network with half-precision weights; it shares everything else with it.

        Autocast would cast the weights of a network that does not learn again at every pass.
        """
        shared = {id(tensor): tensor for tensor in (*net.parameters(), *net.buffers())}
        for module in net.modules():
            if type(module) not in CAST:
                continue
            for weight in module.parameters(recurse=False):
                half = nn.Parameter(weight.detach().to(self.dtype), requires_grad=False)
                shared[id(weight)] = half
                self._weights.append(weight)
                self._halves.append(half)
        return copy.deepcopy(net, shared)

    @torch.no_grad()
    def begin_step(self) -> None:
        """Cast the weights of all half-precision copies in one operation."""
        if self._halves:
            copy_all(self._halves, self._weights)

    def scaled(self, loss: Tensor) -> Tensor:
        """Return the loss times the scale of the gradients, which is 1 unless --amp is fp16."""
        if self.scaler is None:
            return loss
        return self.scaler.scale(loss)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Let an optimiser make its step, at most once in a training step.

        With several processes gradients must have been averaged before, so that all processes find
        the same ones finite.
        """
        if self.scaler is None:
            optimizer.step()
        else:
            self.scaler.step(optimizer)

    def end_step(self) -> Scalars:
        """Adapt the scale after all optimisers have stepped; return the scale that they had."""
        if self.scaler is None:
            return {}
        scale = self.scaler.scale(torch.ones((), device=self.device))
        self.scaler.update()
        return {"loss_scale": scale}

    def check(self, scalars: Mapping[str, float]) -> None:
        """Raise UserError if nothing is learnt because no scale keeps the gradients finite."""
        if scalars.get("loss_scale", 1.0) < SMALLEST_SCALE:
            raise UserError(
                "gradients overflow float16 at any scale, nothing is learnt any more; "
                "use --amp off with another --exp"
            )

    def state_dict(self) -> dict[str, Any] | None:
        """Return the state of the scale; None unless --amp is fp16."""
        if self.scaler is None:
            return None
        return self.scaler.state_dict()

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Restore the state of the scale; None, of a run without one, leaves a new scale."""
        if self.scaler is not None and state is not None:
            self.scaler.load_state_dict(dict(state))


def begin_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Start momentum at zero.

    torch's fused SGD creates momentum without a value at its first step, and leaves it so if the
    scaler skips that step.
    """
    if not optimizer.defaults.get("momentum"):
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if optimizer.state[parameter].get("momentum_buffer") is None:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
