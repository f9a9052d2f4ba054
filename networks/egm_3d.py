"""Edge-guided module of the V-Nets; see egm.py for what it is and what it shares with 2-D.

Notation: x a feature map (N, C, D, H, W), p = sigmoid(x), e the Sobel magnitude of the network's input (N, 1, d, h, w).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks.egm import EGM, EdgeGuidedBase, grey
from networks.feature import Answers, MeanSigmoid
from networks.resize import all_axes, linear_map, matrix, spread, whole_precision

EDGE_CHANNELS = 128
ADJUSTED = (64, 32, 16)  # every published module stores an adjustment to each of them


class Folded(nn.Conv3d):
    """A convolution whose weights are folded into others, in float32, instead of being called."""


class EdgeMap3d(nn.Module):
    """Sobel gradient magnitude of a volume (N, C, D, H, W), zero padding, to (N, 1, D, H, W); C = 3 is turned grey first.

    `published`: the derivative along the first axis is taken between a plane and the next one (0 on plane -1); `corrected`: between
    the two neighbours, as along the other axes. `conv_adjust` lies here as in the published state dicts; the modules fold it
    into their own weights (`EdgeGuidedModule3d`).
    """

    def __init__(self, variant: EGM = "published"):
        super().__init__()
        smooth, derivative, forward = torch.tensor(
            [[1.0, 2.0, 1.0], [-1.0, 0.0, 1.0], [0.0, -1.0, 1.0]]
        )
        for axis, rows in zip(
            "xyz",
            ((smooth, smooth, derivative), (smooth, derivative, smooth), (forward, smooth, smooth)),
            strict=True,
        ):
            self.register_buffer(f"sobel_{axis}", torch.einsum("i,j,k->ijk", *rows)[None, None])
        self.conv_adjust = Folded(1, EDGE_CHANNELS, 1)
        self.variant = variant

    def forward(self, image: Tensor) -> Tensor:
        sobel_z = self.sobel_z if self.variant == "published" else self.sobel_x.transpose(2, 4)
        with whole_precision(image.device):
            gradient = F.conv3d(
                grey(image), torch.cat([self.sobel_x, self.sobel_y, sobel_z]), padding=1
            )  # (N, 3, D, H, W)
            return gradient.square().sum(1, keepdim=True).sqrt()


def _blur(line: Tensor) -> Tensor:
    """Gaussian blur of three places (sigma 1.5, normalised, zero padding) of the last axis of (1, m, n)."""
    side = math.exp(-1 / (2 * 1.5**2))
    padded = F.pad(line, (1, 1))
    return (padded[..., 1:-1] + side * (padded[..., :-2] + padded[..., 2:])) / (1 + 2 * side)


@linear_map("published 3-D")
def _published_line(line: Tensor, size: int) -> Tensor:
    small = _blur(line)[..., ::2]
    smooth = 4 ** (1 / 3) * _blur(F.pad(small, (0, small.shape[-1])))
    return (
        smooth if smooth.shape == line.shape else F.interpolate(smooth, size=size, mode="nearest")
    )


@linear_map("corrected 3-D")
def _corrected_line(line: Tensor, size: int) -> Tensor:
    small = _blur(line)[..., ::2]
    return 2 * _blur(spread(small))[..., :size]


def smooth_part_3d(g: Tensor, variant: EGM) -> Tensor:
    """What the Laplacian band takes away from every channel of p, from their mean `g`; both (N, 1, D, H, W).

    `published`: the halved volume is put into the first octant of an empty one of twice its size and blurred there, so only that
    octant holds anything, at half the scale. `corrected`: its voxels are spread over every second place, gain 8 instead of 4.
    All of it is linear and an axis at a time, so each axis has one matrix.
    """
    return all_axes(
        g, *(matrix(f"{variant} 3-D", side, side, g.device, g.dtype) for side in g.shape[-3:])
    )


class EdgeGuidedModule3d(EdgeGuidedBase):
    """Sharpens a decoder feature (N, C, D, H, W), C one of 128, 64, 32, 16.

    The published code leads the edge map through a 1x1x1 convolution to 128 channels at full resolution, a nearest resize and
    another one to C channels. That chain is affine in the one-channel map and commutes with the resize, so it is `w e + b` a
    channel, with w and b folded from the stored weights: same function, same gradients, no 128-channel volume.
    """

    def __init__(
        self,
        channels: int,
        variant: EGM = "published",
        fusion_dropout: float = 0.4,
        dropout: float = 0.4,
    ):
        super().__init__(channels, variant, 3, fusion_dropout, dropout)
        self.channels = channels
        for width in ADJUSTED:
            adjust = Folded(EDGE_CHANNELS, width, 1)
            self.add_module(f"adjust_128_to_{width}", adjust.requires_grad_(width == channels))

    def edge_weights(self, conv_adjust: nn.Conv3d) -> tuple[Tensor, Tensor]:
        """w and b, both (C,)."""
        w, b = conv_adjust.weight.flatten(), conv_adjust.bias  # (128,)
        if self.channels == EDGE_CHANNELS:
            return w, b
        adjust = self.get_submodule(f"adjust_128_to_{self.channels}")
        matrix = adjust.weight.flatten(1)  # (C, 128)
        return matrix @ w, matrix @ b + adjust.bias

    def forward(self, x: Tensor, edge: Tensor, conv_adjust: nn.Conv3d) -> Tensor:
        e = F.interpolate(edge, size=x.shape[-3:], mode="nearest")  # (N, 1, D, H, W)
        mean = MeanSigmoid.apply(x)
        with whole_precision(x.device):
            w, b = (v.view(1, -1, 1, 1, 1) for v in self.edge_weights(conv_adjust))
            smooth = smooth_part_3d(mean, self.variant)
        return self.refine(x, Answers.apply(x, smooth.to(x.dtype), e.to(x.dtype), w, b))
