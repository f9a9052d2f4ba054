"""Running statistics of batch norm: freeze them for some passes, share them between processes."""

from collections.abc import Generator
from contextlib import contextmanager

from torch import nn

_BatchNorm = nn.modules.batchnorm._BatchNorm  # pyright: ignore[reportPrivateUsage]


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


def synchronise(network: nn.Module) -> None:
    """Replace the batch norm of a network by `torch.nn.SyncBatchNorm`, in place.

    Its parameters, buffers and their names stay. It needs CUDA and a process group. A network that
    normalises single vectors (`nn.BatchNorm1d`: the heads of SS-Net) stays as it is: how many
    vectors a process has, and whether it has any, depends on its images.
    """
    if any(isinstance(module, nn.BatchNorm1d) for module in network.modules()):
        return
    nn.SyncBatchNorm.convert_sync_batchnorm(network)  # pyright: ignore[reportUnknownMemberType]
