"""Batch norm whose pass counters are raised by the network, and which can share its statistics between processes.

Only checkpoints and averaging teachers read `num_batches_tracked`. Raising it in each layer takes 1 of 20 kernel launches, so the
network raises all of them at once.
"""

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from networks.autograd import Function

_BatchNorm = nn.modules.batchnorm._BatchNorm  # pyright: ignore[reportPrivateUsage]  # no public name


class _OverProcesses(Function):
    """Batch norm of x (N, C, ...) with mean and variance of all processes' x, which have one shape.

    `torch.nn.SyncBatchNorm` does the same, but only on CUDA; this class also runs on the CPU, where it is tested.

    The forward pass exchanges 2 C numbers, which all processes average in the same order, so their statistics are bit-identical. The
    backward pass exchanges 2 C numbers, too. Gradients of weight and bias are this process's part, as in any other layer.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        momentum: float,
        eps: float,
    ) -> Tensor:
        axes = [0, *range(2, x.ndim)]
        var, mean = torch.var_mean(x.to(running_mean.dtype), axes, correction=0)
        mine = torch.stack([mean, var])
        shares = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
        dist.all_gather(shares, mine)  # pyright: ignore[reportUnknownMemberType]  # not annotated
        means, variances = torch.stack(shares, 1)  # (processes, C) each
        mean = means.mean(0)
        var = variances.mean(0) + means.var(0, correction=0)
        ctx.count = x.numel() // x.shape[1] * len(shares)
        running_mean.lerp_(mean, momentum)
        running_var.lerp_(var * (ctx.count / (ctx.count - 1)), momentum)
        ctx.eps = eps
        ctx.save_for_backward(x, weight, mean, var)
        return F.batch_norm(x, mean, var, weight, bias, training=False, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # by the decorator
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        x, weight, mean, var = ctx.saved_tensors
        # First the gradient for fixed statistics. Then the part through the statistics, which needs two means over all processes: of
        # the gradient, and of its product with normalised x.
        direct, for_weight, for_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, mean, var, None, None, False, ctx.eps, [True, True, True]
        )
        sums = torch.stack([for_weight, for_bias])
        dist.all_reduce(sums)  # pyright: ignore[reportUnknownMemberType]  # not annotated
        of_product, of_gradient = sums / ctx.count
        scale = (var + ctx.eps).rsqrt()
        slope = -weight * scale.square() * of_product
        offset = -weight * scale * of_gradient - slope * mean
        columns = (1, -1, *[1] * (x.ndim - 2))
        direct += (x * slope.view(columns)).add_(offset.view(columns))
        return direct, for_weight, for_bias, None, None, None, None


class _Uncounted(_BatchNorm):
    """Batch norm of torch that does not raise its counter; the network does (`PassCounter`)."""

    over_processes = False

    def forward(self, input: Tensor) -> Tensor:
        self._check_input_dim(input)  # pyright: ignore[reportUnknownMemberType]  # not annotated
        assert self.momentum is not None  # a cumulative average would need the counter
        if self.training and self.over_processes:
            return _OverProcesses.apply(
                input,
                self.weight,
                self.bias,
                self.running_mean,
                self.running_var,
                self.momentum,
                self.eps,
            )
        return F.batch_norm(
            input,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training,
            self.momentum,
            self.eps,
        )


class BatchNorm2d(_Uncounted, nn.BatchNorm2d):
    """`nn.BatchNorm2d` whose counter is raised by a `PassCounter`."""


class BatchNorm3d(_Uncounted, nn.BatchNorm3d):
    """`nn.BatchNorm3d` whose counter is raised by a `PassCounter`."""


def normalise_over_processes(nets: Iterable[nn.Module]) -> None:
    """Make batch norm in training mode use mean and variance over all processes; requires a process group.

    Raises ValueError for a network with batch norm layers that are not from this module.
    """
    norms: list[_BatchNorm] = []
    for net in nets:
        norms += [module for module in net.modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        if not isinstance(norm, _Uncounted):
            raise ValueError(
                f"{type(norm).__name__} normalises over its own process only; use the class of networks/norm.py instead"
            )
        norm.over_processes = True


class PassCounter:
    """Raises `num_batches_tracked` of all of a network's batch norms at once."""

    def __init__(self, net: nn.Module):
        self.norms = [module for module in net.modules() if isinstance(module, _Uncounted)]

    @torch.no_grad()
    def count(self) -> None:
        counters: list[Tensor] = []
        for norm in self.norms:
            if norm.num_batches_tracked is not None:
                counters.append(norm.num_batches_tracked)
        if counters:
            torch._foreach_add_(counters, 1)  # pyright: ignore[reportPrivateImportUsage, reportPrivateUsage]  # no public name
