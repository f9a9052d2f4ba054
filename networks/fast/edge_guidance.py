"""The edge-guided module and its attention gates, with gradients in the memory layout of the
feature.

Replaces `mean_sigmoid`, `guided_features`, `guided_features_3d`, `pool_pixels`, `pool_channels`,
`convolve_to_one_channel` and `scale_pixels` (tests/test_fast_operations.py compares them).
Autograd's gradient of a mean is always contiguous, and adding it to a gradient in channels-last
layout is several times as slow as an addition of equal layouts. Fewer maps are kept for the
backward pass. Notation: x a feature map (N, C, ...) of two or three spatial axes, p = sigmoid(x).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks import operations
from networks.autograd import Function


def is_eager_cpu(x: Tensor) -> bool:
    """Whether operations run one by one on the CPU, neither compiled nor on another device."""
    return x.is_cpu and not torch.compiler.is_compiling()


def layout_of(x: Tensor) -> torch.memory_format:
    """Return the memory layout of a feature map: channels last or contiguous."""
    channels_last = torch.channels_last_3d
    if x.ndim == 4:
        channels_last = torch.channels_last
    if x.is_contiguous(memory_format=channels_last):
        return channels_last
    return torch.contiguous_format


def is_half_on_cpu(x: Tensor) -> bool:
    """Whether operations run one by one on the CPU in 16 bits.

    There a feature in channels-last layout times a map of one channel takes 7 times as long as a
    feature times a feature.
    """
    return is_eager_cpu(x) and x.element_size() == 2


def as_wide(one: Tensor, x: Tensor) -> Tensor:
    """Return a map (N, 1, ...) that x (N, C, ...) will be multiplied by, repeated for each channel
    if that is faster.
    """
    if is_half_on_cpu(x):
        return one.expand_as(x).contiguous(memory_format=layout_of(x))
    return one


@operations.scale_pixels.replace_by
def scale_pixels(x: Tensor, weights: Tensor) -> Tensor:
    """Multiply x by a map of one channel, repeated for each channel in 16 bits on the CPU."""
    return x * as_wide(weights, x)


# background, boundary and edges


class MeanSigmoid(Function):
    """Mean over channels of sigmoid(x), (N, C, ...) to (N, 1, ...) in float32 or wider; only x is
    kept for the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        precision = torch.promote_types(x.dtype, torch.float32)
        return torch.sigmoid(x).mean(1, keepdim=True, dtype=precision)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gradient,) = gradients
        (x,) = ctx.saved_tensors
        p = torch.sigmoid(x)
        share = (gradient / x.shape[1]).to(x.dtype)
        return torch.addcmul(p, p, p, value=-1).mul_(as_wide(share, x))


class GuidedFeatures(Function):
    """Background x (1 - p), boundary x (p - s) and edges x f in one tensor (N, 3C, ...); only the
    arguments are kept for backward.

    s and e are (N, 1, ...). In 2-D f = e, and w and b are None. In 3-D f = w e + b, where w and b
    are (1, C, 1, 1, 1). No layer with weights precedes e, so e gets a gradient only if the
    network's input requires one.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, s: Tensor, e: Tensor, w: Tensor | None, b: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(x, s, e, w, b)
        factor = _edge_factor(e, w, b, x)
        # The compiler does not accept `out`, and writes into one tensor without it.
        if torch.compiler.is_compiling():
            xp = torch.sigmoid(x) * x
            return torch.cat([x - xp, torch.addcmul(xp, x, s, value=-1), factor * x], 1)
        c = x.shape[1]
        shape = (x.shape[0], 3 * c, *x.shape[2:])
        layout = layout_of(x)
        out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)
        xp = torch.sigmoid(x).mul_(x)
        torch.sub(x, xp, out=out[:, :c])
        torch.addcmul(xp, x, s, value=-1, out=out[:, c : 2 * c])
        torch.mul(x, factor, out=out[:, 2 * c :])
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        x, s, e, w, b = ctx.saved_tensors
        background, boundary, edges = gradient.chunk(3, 1)
        p = torch.sigmoid(x)
        slope = torch.addcmul(p, x, torch.addcmul(p, p, p, value=-1))  # derivative of x p
        gx = torch.sub(boundary, background).mul_(slope).add_(background)
        gx.addcmul_(boundary, s, value=-1).addcmul_(edges, _edge_factor(e, w, b, x))
        gs = (boundary * x).sum(1, keepdim=True).neg_()
        ge = None
        if ctx.needs_input_grad[2]:
            ge = x * edges
            if w is not None:
                ge = ge * w.to(x.dtype)
            ge = ge.sum(1, keepdim=True)
        if w is None:
            return gx, gs, ge, None, None
        whole = w.dtype  # of the folded weights: a sum over all voxels would overflow float16
        everywhere = (0, *range(2, x.ndim))
        xe = x * edges
        gb = xe.sum(everywhere, keepdim=True, dtype=whole)
        gw = xe.mul_(e).sum(everywhere, keepdim=True, dtype=whole)
        return gx, gs, ge, gw, gb


def _edge_factor(e: Tensor, w: Tensor | None, b: Tensor | None, x: Tensor) -> Tensor:
    """Return the factor f of `GuidedFeatures`: e, or w e + b if there are weights."""
    if w is None or b is None:
        return e
    return torch.addcmul(b.to(x.dtype), e, w.to(x.dtype))


@operations.mean_sigmoid.replace_by
def mean_sigmoid(x: Tensor) -> Tensor:
    """Return the mean of p over the channels; only x is kept for the backward pass."""
    return MeanSigmoid.apply(x)


@operations.guided_features.replace_by
def guided_features(x: Tensor, smooth: Tensor, edge: Tensor) -> Tensor:
    """Return background, boundary and edges; only the arguments are kept for the backward pass."""
    if is_half_on_cpu(x):  # writing into a slice of channels takes 3 times as long as `cat` there
        return operations.guided_features.formula(x, as_wide(smooth, x), as_wide(edge, x))
    return GuidedFeatures.apply(x, smooth, edge, None, None)


@operations.guided_features_3d.replace_by
def guided_features_3d(
    x: Tensor, smooth: Tensor, edge: Tensor, conv_adjust: nn.Conv3d, adjust: nn.Conv3d | None
) -> Tensor:
    """Return background, boundary and edges without a volume of 128 channels.

    The convolutions of the edge map and its resize are affine in a map of one channel and commute,
    so channel c of the result is w_c e + b_c, with w and b folded from the weights.
    """
    e = F.interpolate(edge, size=x.shape[2:], mode="nearest")  # (N, 1, D, H, W)
    with operations.whole_precision(x.device):
        w, b = _folded(conv_adjust, adjust)
    w = w.view(1, -1, 1, 1, 1)
    b = b.view(1, -1, 1, 1, 1)
    e = e.to(x.dtype)
    if is_half_on_cpu(x):
        edges = torch.addcmul(b.to(x.dtype), e, w.to(x.dtype))
        return operations.guided_features.formula(x, as_wide(smooth, x), edges)
    return GuidedFeatures.apply(x, smooth, e, w, b)


def _folded(conv_adjust: nn.Conv3d, adjust: nn.Conv3d | None) -> tuple[Tensor, Tensor]:
    """Return weight and bias, (C,) each, of both 1x1x1 convolutions in one."""
    w = conv_adjust.weight.flatten()  # (128,)
    b = _bias(conv_adjust)
    if adjust is None:
        return w, b
    matrix = adjust.weight.flatten(1)  # (C, 128)
    return matrix @ w, matrix @ b + _bias(adjust)


def _bias(conv: nn.Conv3d) -> Tensor:
    assert conv.bias is not None
    return conv.bias


# attention gates


class OverPixels(Function):
    """Mean and maximum of every channel over all pixels, both (N, C); pixels with equal maxima
    share the gradient.
    """

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

    The maximum's gradient goes to the first of equal channels. Except on the CPU it is computed by
    comparing channel numbers instead of scattering: this is deterministic on CUDA and takes one
    launch.
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
    """Map (N, D, T, H, W), T odd, to (N, D, H, W): output plane d is the sum over t of input plane
    (d + t - T // 2, t).

    Planes beyond the ends are zero. In the padded input the planes (d + t, t) form a diagonal,
    which a strided view can address: one sum replaces a shift and an addition for each t.
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

    Convolutions to a single channel use the CPU's vector units poorly. In 3-D the kernel's planes
    along the first axis become the output channels of a 2-D convolution of every plane of x
    (N, C, D, H, W), whose results are then shifted and added.
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
