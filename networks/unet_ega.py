"""2-D U-Net of BCP (CVPR 2023, arXiv 2305.00673) with an edge-guided module behind every decoder
level (Hsu & Hua).
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from networks.base import Auxiliary, Network
from networks.egm import EdgeGuidedModule, EdgeMap, EdgeOptions
from networks.operations import EGM, Dropout, resize_bilinear

Upsampling = Literal["published", "nearest", "bilinear"]
Doubling = Literal["nearest", "bilinear", "transposed"]
"""How one level of a decoder doubles its maps; transposed: by a transposed convolution."""

WIDTHS = (16, 32, 64, 128, 256)
DROPOUT = (0.05, 0.1, 0.2, 0.3, 0.5)


class ConvBlock(nn.Module):
    """conv3 BN LeakyReLU Dropout conv3 BN LeakyReLU."""

    def __init__(self, inputs: int, outputs: int, dropout: float = 0.0) -> None:
        super().__init__()
        between: nn.Module = nn.Identity()
        if dropout:
            between = Dropout(dropout)
        self.conv_conv = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1),
            nn.BatchNorm2d(outputs),
            nn.LeakyReLU(inplace=True),
            between,
            nn.Conv2d(outputs, outputs, 3, padding=1),
            nn.BatchNorm2d(outputs),
            nn.LeakyReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_conv(x)


class DownBlock(nn.Module):
    """2x2 max pooling, block."""

    def __init__(self, inputs: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.maxpool_conv = nn.Sequential(nn.MaxPool2d(2), ConvBlock(inputs, outputs, dropout))

    def forward(self, x: Tensor) -> Tensor:
        return self.maxpool_conv(x)


class Upsample(nn.Module):
    """x2 bilinear upsampling, corners aligned."""

    def forward(self, x: Tensor) -> Tensor:
        return resize_bilinear(x, tuple(2 * side for side in x.shape[2:]))


def _doubling_layer(doubling: Doubling, inputs: int, outputs: int) -> nn.Module:
    """Return the layer that doubles height and width; only a transposed convolution also changes
    the number of channels.
    """
    if doubling == "transposed":
        return nn.ConvTranspose2d(inputs, outputs, 2, stride=2)
    if doubling == "bilinear":
        return Upsample()
    return nn.Upsample(scale_factor=2)


class UpBlock(nn.Module):
    """1x1 conv to the skip's width, x2 upsampling, [skip, upsampled], block, edge-guided module.

    A transposed convolution does the first two steps in one.
    """

    def __init__(self, inputs: int, skip: int, egm: EGM, doubling: Doubling) -> None:
        super().__init__()
        self.up = _doubling_layer(doubling, inputs, skip)
        self.conv1x1: nn.Module = nn.Identity()
        if doubling != "transposed":
            self.conv1x1 = nn.Conv2d(inputs, skip, 1)
        self.conv = ConvBlock(2 * skip, skip)
        self.ega = None
        if egm != "none":
            self.ega = EdgeGuidedModule(skip, egm)

    def forward(self, x: Tensor, skip: Tensor, edge: Tensor | None) -> Tensor:
        upsampled = self.up(self.conv1x1(x))
        x = self.conv(torch.cat([skip, upsampled], 1))
        if self.ega is None:
            return x
        return self.ega(x, edge)


class Encoder(nn.Module):
    """Five levels; returns the feature of each."""

    def __init__(self, in_chns: int) -> None:
        super().__init__()
        self.in_conv = ConvBlock(in_chns, WIDTHS[0], DROPOUT[0])
        for level in range(1, 5):
            self.add_module(
                f"down{level}", DownBlock(WIDTHS[level - 1], WIDTHS[level], DROPOUT[level])
            )

    def forward(self, x: Tensor) -> list[Tensor]:
        features = [self.in_conv(x)]
        for level in range(1, 5):
            features.append(self.get_submodule(f"down{level}")(features[-1]))
        return features  # (N, 16, H, W) ... (N, 256, H / 16, W / 16)


class Decoder(nn.Module):
    """Four levels, and the convolution to logits.

    `forward` takes the encoder's features and the edge map, None without modules.
    """

    def __init__(self, class_num: int, egm: EGM, doubling: Doubling) -> None:
        super().__init__()
        for level in range(1, 5):
            self.add_module(
                f"up{level}", UpBlock(WIDTHS[5 - level], WIDTHS[4 - level], egm, doubling)
            )
        self.out_conv = nn.Conv2d(WIDTHS[0], class_num, 3, padding=1)

    def levels(self, features: list[Tensor], edge: Tensor | None) -> list[Tensor]:
        """Return the features of the four levels, (N, 128, H / 8, W / 8) first; the last one
        (N, 16, H, W) is the input of `out_conv`.
        """
        x = features[-1]
        levels: list[Tensor] = []
        for level in range(1, 5):
            x = self.get_submodule(f"up{level}")(x, features[4 - level], edge)
            levels.append(x)
        return levels

    def last_feature(self, features: list[Tensor], edge: Tensor | None) -> Tensor:
        """Return the input (N, 16, H, W) of the last convolution."""
        return self.levels(features, edge)[-1]

    def forward(self, features: list[Tensor], edge: Tensor | None) -> Tensor:
        return self.out_conv(self.last_feature(features, edge))


def check_sides(size: tuple[int, ...], images: int, name: str) -> None:
    """Raise ValueError where a pass of `images` inputs of `size` (H, W) does not fit four levels
    that halve it; `name` of the network.
    """
    if any(side % 16 or side <= 0 for side in size):
        shape = "x".join(map(str, size))
        raise ValueError(
            f"an input of {shape} does not fit the {name}: both sides must be multiples of 16"
        )
    if max(size) == 16 and images == 1:
        raise ValueError(
            "batch normalisation needs more than one pixel of one image at the deepest level: use "
            "more images or a side of 32"
        )


@dataclass(frozen=True)
class UNetOptions(EdgeOptions):
    """Options of the U-Net."""

    upsampling: Upsampling = "published"
    """How the decoder upsamples; published: nearest with an edge-guided module, bilinear
    without (as BCP's own code does).
    """


class UNet(Network):
    """U-Net with edge-guided modules; `forward` takes (N, in_chns, H, W) and returns logits
    (N, class_num, H, W).

    `upsampling` is "published" by default: nearest with edge-guided modules, as in Hsu & Hua's
    code, and bilinear (corners aligned) without, as in BCP's code. No parameter depends on it, so a
    state dict does not show it. H and W must be multiples of 16 and, with an edge-guided module, at
    least 80; else ValueError.
    """

    dims: ClassVar[int] = 2
    smallest_batch: ClassVar[int] = 1
    Options = UNetOptions
    auxiliary: ClassVar[Auxiliary] = "feature"
    deepest: ClassVar[str] = "encoder.down4"

    def __init__(
        self,
        in_chns: int = 1,
        class_num: int = 4,
        egm: EGM = "published",
        upsampling: Upsampling = "published",
    ) -> None:
        super().__init__()
        doubling: Doubling = "nearest"
        if upsampling == "bilinear" or (upsampling == "published" and egm == "none"):
            doubling = "bilinear"
        self.encoder = Encoder(in_chns)
        self.decoder = Decoder(class_num, egm, doubling)
        self.feature_channels = WIDTHS[0]
        self.compute_edge_feature = None
        if egm != "none":
            self.compute_edge_feature = EdgeMap()

    def check_size(self, size: tuple[int, ...], images: int = 2) -> None:
        """Raise ValueError where a pass of `images` inputs of `size` (H, W) does not fit the
        network.
        """
        check_sides(size, images, name="U-Net")
        if self.compute_edge_feature is not None and min(size) < 80:
            shape = "x".join(map(str, size))
            raise ValueError(
                f"an input of {shape} is too small for the edge-guided module: both sides must be "
                "at least 80"
            )

    def forward(self, x: Tensor, auxiliary: bool = False) -> Tensor | tuple[Tensor, ...]:
        self.check_size(tuple(x.shape[2:]))
        edge = None
        if self.compute_edge_feature is not None:
            edge = self.compute_edge_feature(x)
        feature = self.decoder.last_feature(self.encoder(x), edge)
        logits = self.decoder.out_conv(feature)
        if auxiliary:
            return logits, feature
        return logits
