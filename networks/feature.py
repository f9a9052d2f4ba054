"""Operations of edge-guided modules on feature maps, whose gradients have the same memory layout as the map.

Autograd's gradient of a mean is always contiguous, whatever the map's layout. Adding it to a gradient in channels-last layout is
several times as slow as an addition of equal layouts.
Notation: x a feature map (N, C, ...) of two or three spatial axes, p = sigmoid(x).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from networks.autograd import Function


def _is_eager_cpu(x: Tensor) -> bool:
    """Whether operations run one by one on the CPU, neither compiled nor on another device."""
    return x.is_cpu and not torch.compiler.is_compiling()


def _layout(x: Tensor) -> torch.memory_format:
    channels_last = torch.channels_last_3d
    if x.ndim == 4:
        channels_last = torch.channels_last
    if x.is_contiguous(memory_format=channels_last):
        return channels_last
    return torch.contiguous_format


def _in_half(x: Tensor) -> bool:
    """Whether operations run one by one on the CPU in 16 bits.

    There torch is slow on few channels in channels-last layout. A feature times a one-channel map takes 7 times as long as a feature
    times a feature; writing into a slice of channels takes 3 times as long as `cat`.
    """
    return _is_eager_cpu(x) and x.element_size() == 2


def as_wide(one: Tensor, x: Tensor) -> Tensor:
    """Return a map (N, 1, ...) that is to be multiplied by x (N, C, ...), repeated for each channel if that is faster."""
    if _in_half(x):
        return one.expand_as(x).contiguous(memory_format=_layout(x))
    return one


class OverPixels(Function):
    """Mean and maximum of every channel over all pixels, both (N, C); pixels with equal maxima share the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        everywhere = tuple(range(2, x.ndim))
        # In channels-last layout on the CPU, amax over several axes takes 10 times as long.
        if _is_eager_cpu(x):
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
            ctx.layout = _layout(x)
        else:
            values = x.amax(1)
        return torch.stack([values, x.mean(1)], 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gradient,) = gradients
        number = ctx.saved_tensors[0].unsqueeze(1)
        largest, mean = gradient.chunk(2, 1)
        mean = mean / ctx.shape[1]
        if _is_eager_cpu(gradient):
            spread = torch.empty(ctx.shape, dtype=gradient.dtype, memory_format=ctx.layout).zero_()
            return spread.scatter_(1, number.long(), largest).add_(as_wide(mean, spread))
        channels = torch.arange(ctx.shape[1], dtype=torch.uint8, device=number.device)
        channels = channels.view(1, -1, *[1] * (gradient.ndim - 2))
        return largest * (number == channels) + mean


class MeanSigmoid(Function):
    """Mean over channels of sigmoid(x), (N, C, ...) to (N, 1, ...) in float32 or wider; only x is kept for the backward pass."""

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


class Answers(Function):
    """Background x (1 - p), boundary x (p - s) and edges x f in one tensor (N, 3C, ...); only the arguments are kept for backward.

    s and e are (N, 1, ...). In 2-D f = e, and w and b are None. In 3-D f = w e + b, where w and b are (1, C, 1, 1, 1). No layer with
    weights precedes e, so e gets a gradient only if the network's input requires one.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, s: Tensor, e: Tensor, w: Tensor | None, b: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(x, s, e, w, b)
        s = as_wide(s, x)
        factor = _edge_factor(e, w, b, x)
        # The compiler does not accept `out`, and writes into one tensor without it.
        if torch.compiler.is_compiling() or _in_half(x):
            xp = torch.sigmoid(x) * x
            return torch.cat([x - xp, torch.addcmul(xp, x, s, value=-1), factor * x], 1)
        c = x.shape[1]
        shape = (x.shape[0], 3 * c, *x.shape[2:])
        layout = _layout(x)
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
        gx.addcmul_(boundary, as_wide(s, x), value=-1).addcmul_(edges, _edge_factor(e, w, b, x))
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
    """Return the factor f of `Answers`: e, or w e + b if there are weights."""
    if w is None or b is None:
        return as_wide(e, x)
    return torch.addcmul(b.to(x.dtype), e, w.to(x.dtype))
