"""Edge-guided module (EGM) of Hsu & Hua; it is MEGANet's edge-guided attention (WACV 2024, arXiv 2309.03329) followed by CBAM (ECCV 2018).

This file holds the 2-D module and the parts that 2-D and 3-D share; the 3-D module is in egm_3d.py.
Notation: x a feature map (N, C, H, W), p = sigmoid(x), e the Sobel magnitude of the network's input image (N, 1, h, w).
The module names follow the published state dicts, so that published weights load by name.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks.autograd import Function
from networks.dropout import Dropout
from networks.feature import Answers, MeanSigmoid, OverChannels, OverPixels, as_wide
from networks.norm import BatchNorm2d, BatchNorm3d
from networks.resize import bilinear, both_axes, linear_map, matrix, spread, whole_precision

EGM = Literal["published", "corrected", "none"]


@dataclass(frozen=True)
class EdgeOptions:
    """Flags of every network with edge-guided modules."""

    egm: EGM = "published"
    """Edge-guided module: as published, corrected (Laplacian band aligned with its feature), or none."""


SMALLEST_MAP = 9  # pixels per side: on smaller maps the published Laplacian band is empty
CONV = {2: nn.Conv2d, 3: nn.Conv3d}
BATCH_NORM = {2: BatchNorm2d, 3: BatchNorm3d}


def grey(image: Tensor) -> Tensor:
    """Convert an image (N, C, ...) to one channel (N, 1, ...): 3 channels are red, green and blue; other numbers are averaged."""
    if image.shape[1] == 3:
        red, green, blue = image.chunk(3, 1)
        return 0.299 * red + 0.587 * green + 0.114 * blue
    if image.shape[1] == 1:
        return image
    return image.mean(1, keepdim=True)


class _Kernel(nn.Module):
    """A fixed convolution kernel, kept under `<name>.weight` as in the published state dicts."""

    weight: Tensor

    def __init__(self, weight: Tensor):
        super().__init__()
        self.register_buffer("weight", weight)


class EdgeMap(nn.Module):
    """Sobel gradient magnitude of an image (N, C, H, W), zero padding, to (N, 1, H, W); channels are converted by `grey`."""

    def __init__(self):
        super().__init__()
        sobel = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
        self.sobel_x = _Kernel(sobel[None, None])
        self.sobel_y = _Kernel(sobel.t().contiguous()[None, None])

    def forward(self, image: Tensor) -> Tensor:
        with whole_precision(image.device):
            kernels = torch.cat([self.sobel_x.weight, self.sobel_y.weight])
            gradient = F.conv2d(grey(image), kernels, padding=1)  # (N, 2, H, W)
            return gradient.square().sum(1, keepdim=True).sqrt()


def _blur(line: Tensor) -> Tensor:
    """Binomial blur of the last axis without padding, (1, m, n) to (1, m, n - 4)."""
    n = line.shape[-1] - 4
    total = line[..., :n]
    for tap, weight in enumerate((4, 6, 4, 1), start=1):
        total = total + weight * line[..., tap : tap + n]
    return total / 16


@linear_map("published 2-D")
def _published_line(line: Tensor, size: int) -> Tensor:
    small = _blur(line)[..., ::2]
    smooth = 2 * _blur(spread(small))
    return F.interpolate(smooth, size=size, mode="nearest")


@linear_map("corrected 2-D")
def _corrected_line(line: Tensor, size: int) -> Tensor:
    small = _blur(F.pad(line, (2, 2), "reflect"))[..., ::2]
    return 2 * _blur(F.pad(spread(small), (2, 2), "reflect"))[..., :size]


def smooth_part(g: Tensor, variant: EGM) -> Tensor:
    """Return the smooth part that the Laplacian band subtracts from every channel of p; `g` is their mean; both (N, 1, H, W).

    `published`: blurs without padding and resizes the smaller result to the size of g, so it is shifted and scaled relative to g.
    `corrected`: pads by reflection before each blur, so that every pixel of the result is aligned with g.
    Blur, subsampling, insertion of zeros, blur and resize are linear and separable, so each axis has one matrix.
    Raises ValueError for maps smaller than 9x9.
    """
    height, width = g.shape[-2:]
    if min(height, width) < SMALLEST_MAP:
        raise ValueError(
            f"the edge-guided module needs feature maps of at least 9x9, got {height}x{width}: use inputs of at least 80x80"
        )
    name = f"{variant} 2-D"
    rows = matrix(name, height, height, device=g.device, dtype=g.dtype)
    columns = matrix(name, width, width, device=g.device, dtype=g.dtype)
    return both_axes(g, rows, columns)


class ChannelGate(nn.Module):
    """Channel attention (CBAM): x times one weight per channel, from its mean and its maximum through one shared MLP."""

    def __init__(self, channels: int, reduction: int = 16):
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels, channels // reduction),
            nn.ReLU(),
            nn.Linear(channels // reduction, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        pooled: tuple[Tensor, Tensor] = OverPixels.apply(x)
        mean, largest = self.mlp(torch.cat(pooled)).chunk(2)
        gate = torch.sigmoid(mean + largest)
        return x * gate.view(*gate.shape, *[1] * (x.ndim - 2))


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


def to_one_channel(x: Tensor, conv: nn.Conv2d | nn.Conv3d) -> Tensor:
    """Return `conv(x)` for a convolution to one channel with "same" padding; fast in 3-D, too.

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


class SpatialGate(nn.Module):
    """Spatial attention (CBAM): x times one weight per pixel, from the maximum and the mean over the channels."""

    def __init__(self, dims: int):
        super().__init__()
        self.spatial = CONV[dims](2, 1, 7, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        pooled: Tensor = OverChannels.apply(x)
        gate = torch.sigmoid(to_one_channel(pooled, self.spatial))
        return x * as_wide(gate, x)


class CBAM(nn.Module):
    """Channel attention followed by spatial attention (ECCV 2018)."""

    def __init__(self, channels: int, dims: int):
        super().__init__()
        self.ChannelGate = ChannelGate(channels)
        self.SpatialGate = SpatialGate(dims)

    def forward(self, x: Tensor) -> Tensor:
        return self.SpatialGate(self.ChannelGate(x))


class EdgeGuidedBase(nn.Module):
    """The part of the edge-guided module that 2-D and 3-D share: fusion, attention, residual, CBAM; dropout in 3-D only."""

    def __init__(
        self,
        channels: int,
        variant: EGM,
        dims: int,
        fusion_dropout: float = 0.0,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.variant: EGM = variant
        fusion: list[nn.Module] = [
            CONV[dims](3 * channels, channels, 3, padding=1),
            BATCH_NORM[dims](channels),
            nn.ReLU(),
        ]
        if fusion_dropout:
            fusion.append(nn.Dropout3d(fusion_dropout))
        self.fusion_conv = nn.Sequential(*fusion)
        self.attention = nn.Sequential(
            CONV[dims](channels, 1, 3, padding=1), BATCH_NORM[dims](1), nn.Sigmoid()
        )
        self.cbam = CBAM(channels, dims)
        self.dropout = Dropout(dropout)

    def refine(self, x: Tensor, answers: Tensor) -> Tensor:
        """Return the sharpened feature (N, C, ...) from x (N, C, ...) and its background, boundary and edges (N, 3C, ...)."""
        fused = self.fusion_conv(answers)
        conv, norm, sigmoid = self.attention
        assert isinstance(conv, nn.Conv2d | nn.Conv3d)
        attention = sigmoid(norm(to_one_channel(fused, conv)))
        attended = fused * as_wide(attention, fused) + x
        return self.dropout(self.cbam(attended))


class EdgeGuidedModule(EdgeGuidedBase):
    """Sharpens a decoder feature (N, C, H, W) by its background, its boundary and the edges of the input image."""

    def __init__(self, channels: int, variant: EGM = "published"):
        super().__init__(channels, variant, dims=2)

    def forward(self, x: Tensor, edge: Tensor) -> Tensor:
        # MEGANet uses a predicted mask here; the published code uses x itself
        with whole_precision(x.device):
            e = bilinear(edge, x.shape[-2:]).to(x.dtype)  # (N, 1, H, W)
            mean: Tensor = MeanSigmoid.apply(x)
            smooth = smooth_part(mean, self.variant).to(x.dtype)
        answers: Tensor = Answers.apply(x, smooth, e, None, None)
        return self.refine(x, answers)
