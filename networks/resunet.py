"""Res-U-Net: the encoder of a narrow ResNet-34 with the decoder of the U-Net; the second network of
SDCL (MICCAI 2024)."""

from collections.abc import Sequence
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from networks import unet_ega as unet
from networks.base import Network, NoOptions

BLOCKS = (3, 4, 6, 3)
"""Residual blocks of each layer, as in ResNet-34."""


class BasicBlock(nn.Module):
    """conv3 BN ReLU conv3 BN, added to the input or, where the shape changes, to its 1x1
    convolution; ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1:
            shortcut = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        if self.downsample is not None:
            shortcut = self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(x)) + shortcut)


class ResEncoder(nn.Module):
    """A stem that keeps the size and four layers that halve it; returns the feature of each."""

    def __init__(self, in_chns: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_chns, widths[0], 7, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        for number, blocks in enumerate(BLOCKS, start=1):
            layer = [BasicBlock(widths[number - 1], widths[number], stride=2)]
            layer += [BasicBlock(widths[number], widths[number]) for _ in range(blocks - 1)]
            self.add_module(f"layer{number}", nn.Sequential(*layer))

    def forward(self, x: Tensor) -> list[Tensor]:
        features = [F.relu(self.bn1(self.conv1(x)))]
        for number in range(1, 5):
            features.append(self.get_submodule(f"layer{number}")(features[-1]))
        return features  # (N, 16, H, W) ... (N, 256, H / 16, W / 16)


class ResUNet(Network):
    """Res-U-Net; `forward` takes (N, in_chns, H, W) and returns logits (N, class_num, H, W).

    H and W must be multiples of 16.
    """

    dims: ClassVar[int] = 2
    smallest_batch: ClassVar[int] = 1
    Options = NoOptions
    deepest: ClassVar[str] = "encoder.layer4"

    def __init__(self, in_chns: int = 1, class_num: int = 4) -> None:
        super().__init__()
        self.encoder = ResEncoder(in_chns, unet.WIDTHS)
        self.decoder = unet.Decoder(class_num, egm="none", doubling="bilinear")

    def check_size(self, size: tuple[int, ...], images: int = 2) -> None:
        """Raise ValueError where a pass of `images` inputs of `size` (H, W) does not fit the
        network."""
        unet.check_sides(size, images, name="Res-U-Net")

    def forward(self, x: Tensor) -> Tensor:
        self.check_size(tuple(x.shape[2:]))
        return self.decoder(self.encoder(x), None)
