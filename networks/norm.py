"""Batch norm whose pass counters are raised by the network.

Only checkpoints and averaging teachers read `num_batches_tracked`. Raising it in each layer takes 1
of 20 kernel launches, so the network raises all of them at once.
"""

from collections.abc import Generator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_BatchNorm = nn.modules.batchnorm._BatchNorm  # pyright: ignore[reportPrivateUsage]  # no public name


class _Uncounted(_BatchNorm):
    """Batch norm of torch that does not raise its counter; the network does (`PassCounter`)."""

    def forward(self, input: Tensor) -> Tensor:
        self._check_input_dim(input)  # pyright: ignore[reportUnknownMemberType]  # not annotated
        assert self.momentum is not None  # a cumulative average would need the counter
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


@contextmanager
def frozen_statistics(module: nn.Module) -> Generator[None, None, None]:
    """Within the context, batch norm in training mode does not update its running statistics.

    It still normalises with the statistics of the batch. For a batch that is computed a second time
    (activation checkpointing), and for passes that only search for a direction (SS-Net).
    """
    norms = [norm for norm in module.modules() if isinstance(norm, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    counters = [norm.num_batches_tracked for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        norm.num_batches_tracked = None
    try:
        yield
    finally:
        for norm, momentum, counter in zip(norms, momenta, counters, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked = counter


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


def synchronise(network: nn.Module) -> None:
    """Replace the batch norm of a network by `torch.nn.SyncBatchNorm`, in place.

    Its parameters, buffers and their names stay. It needs CUDA and a process group. A network that
    normalises single vectors (`nn.BatchNorm1d`: the heads of SS-Net) stays as it is: how many
    vectors a process has, and whether it has any, depends on its images.
    """
    if any(isinstance(module, nn.BatchNorm1d) for module in network.modules()):
        return
    nn.SyncBatchNorm.convert_sync_batchnorm(network)  # pyright: ignore[reportUnknownMemberType]
    for module in network.modules():
        counter = vars(module).get("passes")
        if isinstance(counter, PassCounter):
            counter.norms.clear()  # SyncBatchNorm raises its counter itself
