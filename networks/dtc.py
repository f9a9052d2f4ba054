"""U-Net and V-Net with two heads: signed distances and a mask (DTC, AAAI 2021; Luo et al.).

Published is the V-Net for one foreground class. Here each foreground class has a signed distance
and a logit, and the logit of the background is 0. With one foreground class this is the published
network: softmax of (0, logit) is the sigmoid of the logit.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from networks import VNet_la_ega as vnet
from networks import unet_ega as unet
from networks.base import Auxiliary, NoOptions


class UNetDTC(unet.UNet):
    """U-Net with bilinear upsampling and two heads: the V-Net's counterpart for slices."""

    Options = NoOptions
    auxiliary: ClassVar[Auxiliary] = "distance"

    def __init__(self, in_chns: int = 1, class_num: int = 4) -> None:
        super().__init__(in_chns, class_num - 1, egm="none")
        mask_head = nn.Conv2d(unet.WIDTHS[0], class_num - 1, 3, padding=1)
        self.decoder.add_module("out_conv2", mask_head)

    def forward(self, x: Tensor, auxiliary: bool = False) -> Tensor | tuple[Tensor, ...]:
        distance, feature = super().forward(x, auxiliary=True)
        mask = self.decoder.get_submodule("out_conv2")(feature)
        return two_heads(distance, mask, auxiliary=auxiliary)


class VNetDTC(vnet.PlainVNet):
    """V-Net with two heads; dropout acts on the deepest feature and before both heads."""

    auxiliary: ClassVar[Auxiliary] = "distance"

    def __init__(self, in_chns: int = 1, class_num: int = 2, **options: bool) -> None:
        super().__init__(in_chns, class_num - 1, **options)
        self.decoder.add_module("out_conv2", nn.Conv3d(vnet.WIDTHS[0], class_num - 1, 1))

    def forward(self, x: Tensor, auxiliary: bool = False) -> Tensor | tuple[Tensor, ...]:
        distance, feature = super().forward(x, auxiliary=True)
        mask = self.decoder.get_submodule("out_conv2")(feature)
        return two_heads(distance, mask, auxiliary=auxiliary)


def two_heads(distance: Tensor, mask: Tensor, auxiliary: bool) -> Tensor | tuple[Tensor, Tensor]:
    """Return the logits (N, K, ...) and, with `auxiliary`, the signed distances (N, K - 1, ...).

    `distance` and `mask` (N, K - 1, ...): the outputs of both heads.
    """
    background = torch.zeros_like(mask[:, :1])
    logits = torch.cat([background, mask], 1)
    if auxiliary:
        return logits, distance.tanh()
    return logits
