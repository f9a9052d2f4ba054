"""What a stage computes in: float32, or autocast to bfloat16 or float16; the latter with scaled gradients."""

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from methods.base import Scalars, TrainingStage
from utils.errors import UserError
from utils.losses import StepLoss

CAST = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)
SMALLEST_SCALE = 2.0**-10


class Precision:
    """Autocast to `dtype`, None: float32 throughout. With float16 the loss is scaled before its backward pass, so that small gradients are
    not lost, and where scaled gradients are not finite the weights stay as they are and the scale is halved (Micikevicius et al., ICLR
    2018; torch's GradScaler). Nothing here waits for the device.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype | None = None):
        self.device, self.dtype = device, dtype
        self.scaler = torch.amp.GradScaler(device.type) if dtype == torch.float16 else None
        self._weights: list[Tensor] = []
        self._halves: list[Tensor] = []

    def autocast(self) -> AbstractContextManager:
        return nullcontext() if self.dtype is None else torch.autocast(self.device.type, self.dtype)

    def autocast_each(self, losses: Iterator[StepLoss]) -> Iterator[StepLoss]:
        """Compute the losses of a step one by one under autocast; what the caller does in between is outside of it."""
        while True:
            with self.autocast():
                loss = next(losses, None)
            if loss is None:
                return
            yield loss

    def prepare(self, stage: TrainingStage, optimizers: Iterable[torch.optim.Optimizer]) -> None:
        """Once, when the networks have their weights and lie on the device."""
        if self.dtype is not None:
            for name, teacher in stage.teachers.items():
                stage.half_precision_copies[name] = self._half_precision_copy(teacher)
        if self.scaler is not None:
            for optimizer in optimizers:
                begin_momentum(optimizer)

    def _half_precision_copy(self, net: nn.Module) -> nn.Module:
        """The network with its layers' weights cast beforehand, where autocast would cast those of a network that does not learn at
        every pass; it shares all else with it."""
        shared = {id(tensor): tensor for tensor in (*net.parameters(), *net.buffers())}
        for weight in (
            p
            for module in net.modules()
            if type(module) in CAST
            for p in module.parameters(recurse=False)
        ):
            half = nn.Parameter(weight.detach().to(self.dtype), requires_grad=False)
            shared[id(weight)] = half
            self._weights.append(weight)
            self._halves.append(half)
        return copy.deepcopy(net, shared)

    @torch.no_grad()
    def begin_step(self) -> None:
        """Cast all of those weights, in one operation."""
        if self._halves:
            torch._foreach_copy_(self._halves, self._weights)  # pyright: ignore[reportPrivateImportUsage]  # no public name

    def backward(self, loss: Tensor) -> None:
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Let an optimiser make its step, at most once in a training step.

        With several processes gradients are averaged before, so that all processes find the same ones finite.
        """
        if self.scaler is None:
            optimizer.step()
        else:
            self.scaler.step(optimizer)

    def end_step(self) -> Scalars:
        """Adapt the scale to the gradients of all optimisers that have stepped; return the scale that they had, to be logged."""
        if self.scaler is None:
            return {}
        scale = self.scaler.scale(torch.ones((), device=self.device))
        self.scaler.update()
        return {"loss_scale": scale}

    def check(self, scalars: Mapping[str, float]) -> None:
        """Raise UserError where the weights stand still because no scale keeps the gradients finite."""
        if scalars.get("loss_scale", 1.0) < SMALLEST_SCALE:
            raise UserError(
                "gradients overflow float16 at any scale, nothing is learnt any more; use --amp off with another --exp"
            )

    def state_dict(self) -> dict | None:
        return None if self.scaler is None else self.scaler.state_dict()

    def load_state_dict(self, state: Mapping | None) -> None:
        """A state of None, of a run that had no scaler: the scale begins anew."""
        if self.scaler is not None and state is not None:
            self.scaler.load_state_dict(dict(state))


def begin_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Start momentum at zero.

    torch's fused SGD makes momentum of its first gradients without a value, and leaves it so where it skips that step.
    """
    if not optimizer.defaults.get("momentum"):
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if optimizer.state[parameter].get("momentum_buffer") is None:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
