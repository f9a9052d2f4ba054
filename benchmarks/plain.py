"""The published arithmetic that step benchmarks time beside ours: dense kernels, all gradients autograd's own, torch's dropout."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks.dropout import Dropout
from networks.egm import CBAM, EdgeGuidedModule, smooth_part
from networks.egm_3d import EdgeGuidedModule3d


def band_2d(g: Tensor) -> Tensor:
    """`egm.smooth_part` as published, from g (N, 1, H, W)."""
    row = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], dtype=g.dtype, device=g.device) / 16
    kernel = torch.outer(row, row)[None, None]
    small = F.conv2d(g, kernel)[..., ::2, ::2]
    large = g.new_zeros(*small.shape[:2], 2 * small.shape[2], 2 * small.shape[3])
    large[..., ::2, ::2] = small
    return F.interpolate(F.conv2d(large, 4 * kernel), size=g.shape[2:], mode="nearest")


def band_3d(g: Tensor) -> Tensor:
    """`egm_3d.smooth_part_3d` as published, from g (N, 1, D, H, W)."""
    row = torch.exp(-(torch.arange(-1.0, 2.0) ** 2) / (2 * 1.5**2))
    kernel = torch.einsum("i,j,k->ijk", row, row, row)[None, None].to(g)
    kernel = kernel / kernel.sum()
    small = F.conv3d(g, kernel, padding=1)[..., ::2, ::2, ::2]
    smooth = F.conv3d(
        F.pad(small, [part for side in small.shape[:1:-1] for part in (0, side)]),
        4 * kernel,
        padding=1,
    )
    return (
        smooth
        if smooth.shape == g.shape
        else F.interpolate(smooth, size=g.shape[2:], mode="nearest")
    )


def gates(cbam: CBAM, x: Tensor) -> Tensor:
    """CBAM, channels first; x (N, C, ...)."""
    everywhere = tuple(range(2, x.ndim))
    mean, largest = (
        cbam.ChannelGate.mlp(weight) for weight in (x.mean(everywhere), x.amax(everywhere))
    )
    x = x * torch.sigmoid(mean + largest).view(*mean.shape, *[1] * len(everywhere))
    return x * torch.sigmoid(cbam.SpatialGate.spatial(torch.stack([x.max(1).values, x.mean(1)], 1)))


def module_2d(self: EdgeGuidedModule, x: Tensor, edge: Tensor) -> Tensor:
    """The edge-guided module as the paper writes it."""
    p = torch.sigmoid(x)
    e = F.interpolate(edge, size=x.shape[-2:], mode="bilinear", align_corners=True)
    g = p.mean(1, keepdim=True)
    band = p - (band_2d(g) if self.variant == "published" else smooth_part(g, self.variant))
    fused = self.fusion_conv(torch.cat([x * (1 - p), x * band, x * e], 1))
    return gates(self.cbam, fused * self.attention(fused) + x)


def module_3d(self: EdgeGuidedModule3d, x: Tensor, edge: Tensor, conv_adjust: nn.Conv3d) -> Tensor:
    """The edge-guided module as the published code computes it."""
    p = torch.sigmoid(x)
    e = F.interpolate(conv_adjust(edge), size=x.shape[-3:], mode="nearest")  # (N, 128, D, H, W)
    e = e if self.channels == 128 else self.get_submodule(f"adjust_128_to_{self.channels}")(e)
    smooth = band_3d(
        p.mean(1, keepdim=True).repeat(1, x.shape[1], 1, 1, 1).flatten(0, 1).unsqueeze(1)
    )
    fused = self.fusion_conv(torch.cat([x * (1 - p), x * (p - smooth.view_as(p)), x * e], 1))
    return self.dropout(gates(self.cbam, fused * self.attention(fused) + x))


PLAIN: dict[type[nn.Module], Callable] = {
    EdgeGuidedModule: module_2d,
    EdgeGuidedModule3d: module_3d,
    Dropout: nn.Dropout.forward,
}


@contextmanager
def plainly(on: bool = True) -> Iterator[None]:
    """Within it, if `on`, networks compute in the plain way."""
    with ExitStack() as stack:
        for kind, forward in PLAIN.items() if on else ():
            stack.enter_context(patch.object(kind, "forward", forward))
        yield
