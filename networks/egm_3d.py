"""Edge-guided module of the V-Nets; egm.py describes it and holds the parts that it shares with
2-D.

Notation: x a feature map (N, C, D, H, W), p = sigmoid(x), e the Sobel magnitude of the network's
input (N, 1, d, h, w).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks.egm import EdgeGuidedBase, grey
from networks.operations import (
    EGM,
    guided_features_3d,
    mean_sigmoid,
    smooth_part_3d,
    whole_precision,
)

EDGE_CHANNELS = 128
ADJUSTED = (64, 32, 16)  # every published module stores a convolution to each of these widths


class EdgeConv3d(nn.Conv3d):
    """A 1x1x1 convolution of the edge map.

    A class of its own: its weights stay in float32 where those of other layers are cast.
    """


class EdgeMap3d(nn.Module):
    """Sobel gradient magnitude of a volume (N, C, D, H, W), zero padding, to (N, 1, D, H, W);
    channels are converted by `grey`.

    `published`: the derivative along the first axis is the difference of a plane and the next one;
    `corrected`: of the two neighbours, as along the other axes. `conv_adjust` is here as in the
    published state dicts; the edge-guided modules apply it.
    """

    sobel_x: Tensor
    sobel_y: Tensor
    sobel_z: Tensor

    def __init__(self, variant: EGM = "published") -> None:
        super().__init__()
        smooth = torch.tensor([1.0, 2.0, 1.0])
        central = torch.tensor([-1.0, 0.0, 1.0])
        forward = torch.tensor([0.0, -1.0, 1.0])
        self.register_buffer("sobel_x", _separable_kernel(smooth, smooth, central))
        self.register_buffer("sobel_y", _separable_kernel(smooth, central, smooth))
        self.register_buffer("sobel_z", _separable_kernel(forward, smooth, smooth))
        self.conv_adjust = EdgeConv3d(1, EDGE_CHANNELS, 1)
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


class EdgeGuidedModule3d(EdgeGuidedBase):
    """Sharpens a decoder feature (N, C, D, H, W), C one of 128, 64, 32, 16, as the 2-D module does.

    The edge map gets C channels: a 1x1x1 convolution to 128 channels, a resize (nearest) and, if
    C < 128, a convolution to C.
    """

    def __init__(
        self,
        channels: int,
        variant: EGM = "published",
        fusion_dropout: float = 0.4,
        dropout: float = 0.4,
    ) -> None:
        super().__init__(channels, variant, 3, fusion_dropout, dropout)
        self.channels = channels
        for width in ADJUSTED:
            adjust = EdgeConv3d(EDGE_CHANNELS, width, 1)
            self.add_module(f"adjust_128_to_{width}", adjust.requires_grad_(width == channels))

    def forward(self, x: Tensor, edge: Tensor, conv_adjust: EdgeConv3d) -> Tensor:
        adjust: nn.Conv3d | None = None
        if self.channels != EDGE_CHANNELS:
            adjust = getattr(self, f"adjust_128_to_{self.channels}")
        with whole_precision(x.device):
            smooth = smooth_part_3d(mean_sigmoid(x), self.variant).to(x.dtype)
        return self.refine(x, guided_features_3d(x, smooth, edge, conv_adjust, adjust))
