"""Edge-guided module (EGM) of Hsu & Hua; it is MEGANet's edge-guided attention (WACV 2024, arXiv 2309.03329) followed by CBAM (ECCV 2018).

Notation: x a feature map (N, C, H, W), p = sigmoid(x), e the Sobel magnitude of the network's input image (N, 1, h, w).
The module names follow the published state dicts, so that published weights load by name.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EGM = Literal["published", "corrected", "none"]
SMALLEST_MAP = 9  # pixels a side: below it the published Laplacian band has no pixel left


class _Kernel(nn.Module):
    """A fixed convolution kernel, kept under `<name>.weight` as in the published state dicts."""

    def __init__(self, weight: Tensor):
        super().__init__()
        self.register_buffer("weight", weight)


class EdgeMap(nn.Module):
    """Sobel gradient magnitude of an image (N, C, H, W), zero padding, to (N, 1, H, W); C = 3 is turned grey first."""

    def __init__(self):
        super().__init__()
        sobel = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
        self.sobel_x = _Kernel(sobel[None, None])
        self.sobel_y = _Kernel(sobel.t().contiguous()[None, None])

    def forward(self, image: Tensor) -> Tensor:
        if image.shape[1] == 3:
            image = (image * image.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
        elif image.shape[1] != 1:
            raise ValueError(f"the edge map needs an image of 1 or 3 channels, not {image.shape[1]}")
        gradient = F.conv2d(image, torch.cat([self.sobel_x.weight, self.sobel_y.weight]), padding=1)  # (N, 2, H, W)
        return gradient.square().sum(1, keepdim=True).sqrt()


def _blur(g: Tensor, gain: float = 1.0) -> Tensor:
    """5x5 binomial blur of (N, 1, H, W) without padding, to (N, 1, H - 4, W - 4)."""
    row = g.new_tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    return F.conv2d(g, (gain * torch.outer(row, row))[None, None])


def smooth_part(p: Tensor, variant: EGM) -> Tensor:
    """What the Laplacian band takes away from `p` (N, C, H, W): one blurred map (N, 1, H, W) for all channels.

    `published`: blurs without padding, then stretches the smaller result to the size of p, so it is shifted and scaled against p.
    `corrected`: reflect padding before each blur, so that every pixel of the result lies where it lies in p.
    Raises ValueError for maps smaller than 9x9.
    """
    height, width = p.shape[-2:]
    if min(height, width) < SMALLEST_MAP:
        raise ValueError(f"the edge-guided module needs feature maps of at least 9x9, got {height}x{width}: use inputs of at least 80x80")
    aligned = variant == "corrected"
    g = p.mean(1, keepdim=True)
    small = _blur(F.pad(g, [2] * 4, "reflect") if aligned else g)[..., ::2, ::2]
    rows, columns = small.shape[-2:]
    spread = small.new_zeros(*small.shape[:2], 2 * rows, 2 * columns)
    spread[..., ::2, ::2] = small
    smooth = _blur(F.pad(spread, [2] * 4, "reflect") if aligned else spread, gain=4)
    return smooth[..., :height, :width] if aligned else F.interpolate(smooth, size=(height, width), mode="nearest")


def laplacian_band(p: Tensor, variant: EGM = "published") -> Tensor:
    """L(p), one band of a Laplacian pyramid, (N, C, H, W) to the same shape."""
    return p - smooth_part(p, variant)


class ChannelGate(nn.Module):
    """x times a weight a channel, from its mean and its maximum through one shared MLP (CBAM)."""

    def __init__(self, channels: int, reduction: int = 16):
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Flatten(), nn.Linear(channels, channels // reduction), nn.ReLU(), nn.Linear(channels // reduction, channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        mean, peak = F.adaptive_avg_pool2d(x, 1), F.adaptive_max_pool2d(x, 1)
        gate = torch.sigmoid(self.mlp(mean) + self.mlp(peak))
        return x * gate[:, :, None, None]


class SpatialGate(nn.Module):
    """x times a weight a pixel, from the maximum and the mean over the channels (CBAM)."""

    def __init__(self):
        super().__init__()
        self.spatial = nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.spatial(torch.stack([x.max(1).values, x.mean(1)], 1)))


class CBAM(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.ChannelGate = ChannelGate(channels)
        self.SpatialGate = SpatialGate()

    def forward(self, x: Tensor) -> Tensor:
        return self.SpatialGate(self.ChannelGate(x))


class EdgeGuidedModule(nn.Module):
    """Sharpens a decoder feature (N, C, H, W) with the background, the boundary and the input edges it answers to."""

    def __init__(self, channels: int, variant: EGM = "published"):
        super().__init__()
        self.variant = variant
        self.fusion_conv = nn.Sequential(nn.Conv2d(3 * channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU())
        self.attention = nn.Sequential(nn.Conv2d(channels, 1, 3, padding=1), nn.BatchNorm2d(1), nn.Sigmoid())
        self.cbam = CBAM(channels)

    def forward(self, x: Tensor, edge: Tensor) -> Tensor:
        p = torch.sigmoid(x)  # (N, C, H, W); the published code takes the feature itself for the prediction
        e = F.interpolate(edge, size=x.shape[-2:], mode="bilinear", align_corners=True)  # (N, 1, H, W)
        xp = x * p
        background, boundary, edges = x - xp, xp - x * smooth_part(p, self.variant), x * e
        fused = self.fusion_conv(torch.cat([background, boundary, edges], 1))
        return self.cbam(fused * self.attention(fused) + x)
