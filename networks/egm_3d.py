"""Edge-guided module of the V-Nets; egm.py describes it and holds the parts that it shares with 2-D.

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
ADJUSTED = (64, 32, 16)  # every published module stores a convolution to each of these widths


class Folded(nn.Conv3d):
    """A 1x1x1 convolution whose weights are folded into others, in float32, instead of being called."""

    def affine(self) -> tuple[Tensor, Tensor]:
        """Return its matrix (outputs, inputs) and its bias (outputs,)."""
        assert self.bias is not None
        return self.weight.flatten(1), self.bias


class EdgeMap3d(nn.Module):
    """Sobel gradient magnitude of a volume (N, C, D, H, W), zero padding, to (N, 1, D, H, W); channels are converted by `grey`.

    `published`: the derivative along the first axis is the difference of a plane and the next one; `corrected`: of the two
    neighbours, as along the other axes. `conv_adjust` is here as in the published state dicts; the modules fold it into their own
    weights (`EdgeGuidedModule3d`).
    """

    sobel_x: Tensor
    sobel_y: Tensor
    sobel_z: Tensor

    def __init__(self, variant: EGM = "published"):
        super().__init__()
        smooth = torch.tensor([1.0, 2.0, 1.0])
        central = torch.tensor([-1.0, 0.0, 1.0])
        forward = torch.tensor([0.0, -1.0, 1.0])
        self.register_buffer("sobel_x", _separable_kernel(smooth, smooth, central))
        self.register_buffer("sobel_y", _separable_kernel(smooth, central, smooth))
        self.register_buffer("sobel_z", _separable_kernel(forward, smooth, smooth))
        self.conv_adjust = Folded(1, EDGE_CHANNELS, 1)
        self.variant: EGM = variant

    def forward(self, image: Tensor) -> Tensor:
        sobel_z = self.sobel_z
        if self.variant != "published":
            sobel_z = self.sobel_x.transpose(2, 4)
        with whole_precision(image.device):
            kernels = torch.cat([self.sobel_x, self.sobel_y, sobel_z])
            gradient = F.conv3d(grey(image), kernels, padding=1)  # (N, 3, D, H, W)
            return gradient.square().sum(1, keepdim=True).sqrt()


def _separable_kernel(planes: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return the kernel (1, 1, 3, 3, 3) that is the outer product of three lines (3,)."""
    return torch.einsum("i,j,k->ijk", planes, rows, columns)[None, None]


def _blur(line: Tensor) -> Tensor:
    """Blur the last axis of (1, m, n) with a Gaussian kernel of size 3 (sigma 1.5, normalised, zero padding)."""
    side = math.exp(-1 / (2 * 1.5**2))
    padded = F.pad(line, (1, 1))
    neighbours = padded[..., :-2] + padded[..., 2:]
    return (padded[..., 1:-1] + side * neighbours) / (1 + 2 * side)


@linear_map("published 3-D")
def _published_line(line: Tensor, size: int) -> Tensor:
    small = _blur(line)[..., ::2]
    smooth = 4 ** (1 / 3) * _blur(F.pad(small, (0, small.shape[-1])))
    if smooth.shape == line.shape:
        return smooth
    return F.interpolate(smooth, size=size, mode="nearest")


@linear_map("corrected 3-D")
def _corrected_line(line: Tensor, size: int) -> Tensor:
    small = _blur(line)[..., ::2]
    return 2 * _blur(spread(small))[..., :size]


def smooth_part_3d(g: Tensor, variant: EGM) -> Tensor:
    """Return the smooth part that the Laplacian band subtracts from every channel of p; `g` is their mean; both (N, 1, D, H, W).

    `published`: the subsampled volume is put into the first octant of a zero volume of twice its size and blurred there, so only that
    octant is non-zero, at half the scale. `corrected`: zeros are inserted between its voxels before the blur, gain 8 instead of 4.
    All operations are linear and separable, so each axis has one matrix.
    """
    name = f"{variant} 3-D"
    sides = g.shape[-3:]
    matrices = [matrix(name, side, side, device=g.device, dtype=g.dtype) for side in sides]
    return all_axes(g, *matrices)


class EdgeGuidedModule3d(EdgeGuidedBase):
    """Sharpens a decoder feature (N, C, D, H, W), C one of 128, 64, 32, 16.

    The published code applies a 1x1x1 convolution to 128 channels at full resolution, a nearest resize and another convolution to C
    channels to the edge map. This chain is affine in the one-channel map and commutes with the resize, so each channel is `w e + b`,
    with w and b folded from the stored weights. Function and gradients are the same, without a 128-channel volume.
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

    def edge_weights(self, conv_adjust: Folded) -> tuple[Tensor, Tensor]:
        """Return w and b, (C,) each."""
        column, b = conv_adjust.affine()
        w = column.flatten()  # (128,)
        if self.channels == EDGE_CHANNELS:
            return w, b
        adjust = self.get_submodule(f"adjust_128_to_{self.channels}")
        assert isinstance(adjust, Folded)
        matrix, bias = adjust.affine()  # (C, 128) and (C,)
        return matrix @ w, matrix @ b + bias

    def forward(self, x: Tensor, edge: Tensor, conv_adjust: Folded) -> Tensor:
        e = F.interpolate(edge, size=x.shape[-3:], mode="nearest")  # (N, 1, D, H, W)
        mean: Tensor = MeanSigmoid.apply(x)
        with whole_precision(x.device):
            w, b = self.edge_weights(conv_adjust)
            w = w.view(1, -1, 1, 1, 1)
            b = b.view(1, -1, 1, 1, 1)
            smooth = smooth_part_3d(mean, self.variant)
        answers: Tensor = Answers.apply(x, smooth.to(x.dtype), e.to(x.dtype), w, b)
        return self.refine(x, answers)
