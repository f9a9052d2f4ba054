"""U-Net and V-Net with one encoder and several decoders.

They are those of MC-Net (Wu et al., MICCAI 2021) and MC-Net+ (MedIA 2022). The decoders have the
same shape and differ in how they double their maps. Validation and test use the first one.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from networks import VNet_la_ega as vnet
from networks import unet_ega as unet
from networks.base import Auxiliary

Decoders = Literal[2, 3]


@dataclass(frozen=True)
class UNetMCNetOptions:
    """Options of MC-Net's U-Net."""

    decoders: Decoders = 2
    """Number of decoders of the training: 2 is MC-Net, 3 is MC-Net+."""


@dataclass(frozen=True)
class VNetMCNetOptions(UNetMCNetOptions, vnet.RecomputeOptions):
    """Those of the decoders and of activation checkpointing."""


class UNetMCNet(unet.UNet):
    """U-Net with several decoders.

    The first doubles its maps bilinearly, the second by transposed convolutions, the third by
    nearest neighbours.
    """

    Options = UNetMCNetOptions
    auxiliary: ClassVar[Auxiliary] = "decoders"

    def __init__(self, in_chns: int = 1, class_num: int = 4, decoders: Decoders = 2) -> None:
        super().__init__(in_chns, class_num, egm="none")
        self.decoder2 = unet.Decoder(class_num, egm="none", doubling="transposed")
        self.decoder3 = None
        if decoders == 3:
            self.decoder3 = unet.Decoder(class_num, egm="none", doubling="nearest")

    def forward(self, x: Tensor, auxiliary: bool = False) -> Tensor | tuple[Tensor, ...]:
        if not auxiliary:
            return super().forward(x)
        self.check_size(tuple(x.shape[2:]))
        features = self.encoder(x)
        logits = [self.decoder(features, None), self.decoder2(features, None)]
        if self.decoder3 is not None:
            logits.append(self.decoder3(features, None))
        return tuple(logits)


class VNetMCNet(vnet.PlainVNet):
    """V-Net with several decoders.

    The first doubles its maps by transposed convolutions, the second trilinearly, the third by
    nearest neighbours.

    The last two convolve after the interpolation. Dropout acts on the deepest feature and, in each
    decoder, before the last convolution.
    """

    Options = VNetMCNetOptions
    auxiliary: ClassVar[Auxiliary] = "decoders"

    def __init__(
        self, in_chns: int = 1, class_num: int = 2, decoders: Decoders = 2, **options: bool
    ) -> None:
        super().__init__(in_chns, class_num, **options)
        self.decoder2 = vnet.Decoder(class_num, doubling="trilinear")
        self.decoder3 = None
        if decoders == 3:
            self.decoder3 = vnet.Decoder(class_num, doubling="nearest")

    def forward(self, x: Tensor, auxiliary: bool = False) -> Tensor | tuple[Tensor, ...]:
        if not auxiliary:
            return super().forward(x)
        self.check_size(tuple(x.shape[2:]))
        features = self.features(x)
        logits = [self.logits(self.decoder, features), self.logits(self.decoder2, features)]
        if self.decoder3 is not None:
            logits.append(self.logits(self.decoder3, features))
        return tuple(logits)

    def logits(self, decoder: vnet.Decoder, features: list[Tensor]) -> Tensor:
        """Return the logits (N, class_num, D, H, W) of a decoder from the encoder's features."""
        feature = self.decode(decoder, features, None)
        return decoder.out_conv(self.dropouts[2](feature))
