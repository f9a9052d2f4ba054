"""Pooling and convolution of the attention gates (CBAM), with gradients in the memory layout of the map.

Replaces `pool_pixels`, `pool_channels` and `convolve_to_one_channel` (tests/test_fast_operations.py compares them).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks import operations
from networks.autograd import Function
from networks.fast.layout import as_wide, is_eager_cpu, layout_of


class OverPixels(Function):
    """Mean and maximum of every channel over all pixels, both (N, C); pixels with equal maxima share the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        everywhere = tuple(range(2, x.ndim))
        # In channels-last layout on the CPU, amax over several axes takes 10 times as long.
        if is_eager_cpu(x):
            largest = F.adaptive_max_pool2d(x.flatten(2, -2), 1).flatten(1)
        else:
            largest = x.amax(everywhere)
        ctx.save_for_backward(x, largest)
        return x.mean(everywhere), largest

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        mean, largest = gradients
        x, values = ctx.saved_tensors
        shape = (*values.shape, *[1] * (x.ndim - 2))
        everywhere = tuple(range(2, x.ndim))
        is_largest = x == values.view(shape)
        share = largest.view(shape) / is_largest.sum(everywhere, keepdim=True)
        return (is_largest * share).add_(mean.view(shape) / x[0, 0].numel())


class OverChannels(Function):
    """Maximum and mean over the channels of every pixel, (N, 2, ...).

    The maximum's gradient goes to the first of equal channels. Except on the CPU it is computed by comparing channel numbers instead
    of scattering: this is deterministic on CUDA and takes one launch.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        if ctx.needs_input_grad[0]:
            values, number = x.max(1)
            ctx.save_for_backward(number.to(torch.uint8))
            ctx.shape = x.shape
            ctx.layout = layout_of(x)
        else:
            values = x.amax(1)
        return torch.stack([values, x.mean(1)], 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gradient,) = gradients
        number = ctx.saved_tensors[0].unsqueeze(1)
        largest, mean = gradient.chunk(2, 1)
        mean = mean / ctx.shape[1]
        if is_eager_cpu(gradient):
            spread = torch.empty(ctx.shape, dtype=gradient.dtype, memory_format=ctx.layout).zero_()
            return spread.scatter_(1, number.long(), largest).add_(as_wide(mean, spread))
        channels = torch.arange(ctx.shape[1], dtype=torch.uint8, device=number.device)
        channels = channels.view(1, -1, *[1] * (gradient.ndim - 2))
        return largest * (number == channels) + mean


class _Shifted(Function):
    """Map (N, D, T, H, W), T odd, to (N, D, H, W): output plane d is the sum over t of input plane (d + t - T // 2, t).

    Planes beyond the ends are zero. In the padded input the planes (d + t, t) form a diagonal, which a strided view can address: one
    sum replaces a shift and an addition for each t.
    """

    @staticmethod
    def diagonal(padded: Tensor, d: int) -> Tensor:
        n, _, taps, h, w = padded.shape
        batch, plane, tap, row, column = padded.stride()
        return padded.as_strided((n, d, taps, h, w), (batch, plane, plane + tap, row, column))

    @staticmethod
    def forward(ctx: Any, each: Tensor) -> Tensor:
        half = each.shape[2] // 2
        padded = F.pad(each, (0, 0, 0, 0, 0, 0, half, half))
        ctx.shape = padded.shape
        return _Shifted.diagonal(padded, each.shape[1]).sum(2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gradient,) = gradients
        d = gradient.shape[1]
        taps = ctx.shape[2]
        padded = gradient.new_zeros(ctx.shape)
        repeated = gradient.unsqueeze(2).expand(-1, -1, taps, -1, -1)
        _Shifted.diagonal(padded, d).copy_(repeated)
        half = taps // 2
        return padded[:, half : half + d]


@operations.pool_pixels.replace_by
def pool_pixels(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and maximum of every channel over all pixels."""
    return OverPixels.apply(x)


@operations.pool_channels.replace_by
def pool_channels(x: Tensor) -> Tensor:
    """Return maximum and mean over the channels of every pixel."""
    return OverChannels.apply(x)


@operations.convolve_to_one_channel.replace_by
def convolve_to_one_channel(x: Tensor, conv: nn.Conv2d | nn.Conv3d) -> Tensor:
    """Return `conv(x)`, in 3-D as a 2-D convolution.

    Convolutions to a single channel use the CPU's vector units poorly. In 3-D the kernel's planes along the first axis become the
    output channels of a 2-D convolution of every plane of x (N, C, D, H, W), whose results are then shifted and added.
    """
    if x.ndim == 4:
        return conv(x)
    n, c, d, h, w = x.shape
    taps = conv.weight.shape[2]
    planes = x.transpose(1, 2).reshape(n * d, c, h, w)
    padding = [side // 2 for side in conv.kernel_size[1:]]
    each = F.conv2d(planes, conv.weight[0].transpose(0, 1), padding=padding)
    summed: Tensor = _Shifted.apply(each.view(n, d, taps, h, w))
    result = summed.unsqueeze(1)
    if conv.bias is None:
        return result
    return result + conv.bias.to(each.dtype)
