"""Edge-guided module (EGM) of Hsu & Hua; it is MEGANet's edge-guided attention
(WACV 2024, arXiv 2309.03329) followed by CBAM (ECCV 2018).

This file holds the 2-D module and the parts that 2-D and 3-D share; the 3-D module is in egm_3d.py.
Notation: x a feature map (N, C, H, W), p = sigmoid(x), e the Sobel magnitude of the network's input
image (N, 1, h, w). The module names follow the published state dicts, so that published weights
load by name.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks.operations import (
    EGM,
    Dropout,
    convolve_to_one_channel,
    guided_features,
    mean_sigmoid,
    pool_channels,
    pool_pixels,
    resize_bilinear,
    scale_pixels,
    smooth_part_2d,
    whole_precision,
)


@dataclass(frozen=True)
class EdgeOptions:
    """Flags of every network with edge-guided modules."""

    egm: EGM = "published"
    """Edge-guided module: as published, corrected (Laplacian band aligned with its feature), or
    none.
    """


SMALLEST_MAP = 9  # pixels per side: on smaller maps the published Laplacian band is empty
CONV = {2: nn.Conv2d, 3: nn.Conv3d}
BATCH_NORM = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def grey(image: Tensor) -> Tensor:
    """Convert an image (N, C, ...) to one channel (N, 1, ...): 3 channels are red, green and blue;
    other numbers are averaged.
    """
    if image.shape[1] == 3:
        red, green, blue = image.chunk(3, 1)
        return 0.299 * red + 0.587 * green + 0.114 * blue
    if image.shape[1] == 1:
        return image
    return image.mean(1, keepdim=True)


class _Kernel(nn.Module):
    """A fixed convolution kernel, kept under `<name>.weight` as in the published state dicts."""

    weight: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)


class EdgeMap(nn.Module):
    """Sobel gradient magnitude of an image (N, C, H, W), zero padding, to (N, 1, H, W); channels
    are converted by `grey`.
    """

    def __init__(self) -> None:
        super().__init__()
        sobel = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
        self.sobel_x = _Kernel(sobel[None, None])
        self.sobel_y = _Kernel(sobel.t().contiguous()[None, None])

    def forward(self, image: Tensor) -> Tensor:
        with whole_precision(image.device):
            kernels = torch.cat([self.sobel_x.weight, self.sobel_y.weight])
            gradient = F.conv2d(grey(image), kernels, padding=1)  # (N, 2, H, W)
            return gradient.square().sum(1, keepdim=True).sqrt()


def smooth_part(g: Tensor, variant: EGM) -> Tensor:
    """Return the smooth part that the Laplacian band subtracts from every channel of p; `g` is
    their mean; both (N, 1, H, W).

    Raises ValueError for maps smaller than 9x9.
    """
    height, width = g.shape[-2:]
    if min(height, width) < SMALLEST_MAP:
        raise ValueError(
            f"the edge-guided module needs feature maps of at least 9x9, got {height}x{width}: "
            "use inputs of at least 80x80"
        )
    return smooth_part_2d(g, variant)


class ChannelGate(nn.Module):
    """Channel attention (CBAM): x times one weight per channel, from its mean and its maximum
    through one shared MLP.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels, channels // reduction),
            nn.ReLU(),
            nn.Linear(channels // reduction, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        mean, largest = self.mlp(torch.cat(pool_pixels(x))).chunk(2)
        gate = torch.sigmoid(mean + largest)
        return x * gate.view(*gate.shape, *[1] * (x.ndim - 2))


class SpatialGate(nn.Module):
    """Spatial attention (CBAM): x times one weight per pixel, from the maximum and the mean over
    the channels.
    """

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.spatial = CONV[dims](2, 1, 7, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(convolve_to_one_channel(pool_channels(x), self.spatial))
        return scale_pixels(x, gate)


class CBAM(nn.Module):
    """Channel attention followed by spatial attention (ECCV 2018)."""

    def __init__(self, channels: int, dims: int) -> None:
        super().__init__()
        self.ChannelGate = ChannelGate(channels)
        self.SpatialGate = SpatialGate(dims)

    def forward(self, x: Tensor) -> Tensor:
        return self.SpatialGate(self.ChannelGate(x))


class EdgeGuidedBase(nn.Module):
    """The part of the edge-guided module that 2-D and 3-D share: fusion, attention, residual, CBAM;
    dropout in 3-D only.
    """

    def __init__(
        self,
        channels: int,
        variant: EGM,
        dims: int,
        fusion_dropout: float = 0.0,
        dropout: float = 0.0,
    ) -> None:
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

    def refine(self, x: Tensor, guided: Tensor) -> Tensor:
        """Return the sharpened feature (N, C, ...) from x (N, C, ...) and its background, boundary
        and edges (N, 3C, ...).
        """
        fused = self.fusion_conv(guided)
        conv, norm, sigmoid = self.attention
        assert isinstance(conv, nn.Conv2d | nn.Conv3d)
        attention = sigmoid(norm(convolve_to_one_channel(fused, conv)))
        attended = scale_pixels(fused, attention) + x
        return self.dropout(self.cbam(attended))


class EdgeGuidedModule(EdgeGuidedBase):
    """Sharpens a decoder feature (N, C, H, W) by its background, its boundary and the edges of the
    input image.
    """

    def __init__(self, channels: int, variant: EGM = "published") -> None:
        super().__init__(channels, variant, dims=2)

    def forward(self, x: Tensor, edge: Tensor) -> Tensor:
        # MEGANet uses a predicted mask here; the published code uses x itself
        with whole_precision(x.device):
            e = resize_bilinear(edge, tuple(x.shape[2:])).to(x.dtype)  # (N, 1, H, W)
            smooth = smooth_part(mean_sigmoid(x), self.variant).to(x.dtype)
        return self.refine(x, guided_features(x, smooth, e))
