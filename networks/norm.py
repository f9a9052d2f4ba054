"""Running statistics of batch norm: freeze them for some passes, share them between processes, fold
them into convolutions.
"""

import copy
from collections.abc import Generator
from contextlib import contextmanager

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

_BatchNorm = nn.modules.batchnorm._BatchNorm  # pyright: ignore[reportPrivateUsage]
_CONVOLUTIONS = (nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose2d, nn.ConvTranspose3d)


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


def folded(network: nn.Module) -> nn.Module:
    """Return a copy of a network in eval mode that has batch norm folded into its convolutions.

    This applies to each batch norm that directly follows a convolution in an `nn.Sequential`. In
    eval mode batch norm multiplies each channel by a number and adds another one, so the
    convolution's weights and bias can do both. The output is the same up to rounding
    (tests/test_inference.py). Gain: 1.15 times as fast with the V-Net on a CPU
    (docs/performance.md).
    """
    copied = copy.deepcopy(network).eval()
    for module in copied.modules():
        if type(module) is nn.Sequential:
            _fold_sequence(module)
    return copied


def _fold_sequence(layers: nn.Sequential) -> None:
    for number in range(len(layers) - 1):
        convolution = layers[number]
        norm = layers[number + 1]
        is_transposed = isinstance(convolution, _TRANSPOSED)
        if not is_transposed and not isinstance(convolution, _CONVOLUTIONS):
            continue
        if isinstance(norm, _BatchNorm) and norm.running_var is not None:
            layers[number] = fuse_conv_bn_eval(convolution, norm, transpose=is_transposed)
            layers[number + 1] = nn.Identity()
