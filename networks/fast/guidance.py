"""Background, boundary and edges of the edge-guided module in one tensor, with hand-written gradients.

Replaces `mean_sigmoid`, `guided_features` and `guided_features_3d` (tests/test_fast_operations.py compares them). The gradients have the
memory layout of the map: autograd's gradient of a mean is always contiguous, and adding it to a gradient in channels-last layout is
several times as slow as an addition of equal layouts. Fewer maps are kept for the backward pass.
Notation: x a feature map (N, C, ...) of two or three spatial axes, p = sigmoid(x).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks import operations
from networks.autograd import Function
from networks.fast.layout import as_wide, is_half_on_cpu, layout_of


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


class GuidedFeatures(Function):
    """Background x (1 - p), boundary x (p - s) and edges x f in one tensor (N, 3C, ...); only the arguments are kept for backward.

    s and e are (N, 1, ...). In 2-D f = e, and w and b are None. In 3-D f = w e + b, where w and b are (1, C, 1, 1, 1). No layer with
    weights precedes e, so e gets a gradient only if the network's input requires one.
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

    The convolutions of the edge map and its resize are affine in a map of one channel and commute, so channel c of the result is
    w_c e + b_c, with w and b folded from the weights.
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
