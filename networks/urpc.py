"""U-Net and V-Net that predict at every level of the decoder (URPC: Luo et al., MICCAI 2021 and
MedIA 2022).

A convolution behind each level gives logits, which nearest-neighbour interpolation enlarges to the
input's size. In training mode each level's feature is perturbed on its way to that convolution, but
not on its way to the next level: dropout of elements at the coarsest level, of the most active
positions at the next one, relative noise at the third, nothing at the last, whose logits are the
result.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks import VNet_la_ega as vnet
from networks import unet_ega as unet
from networks.base import Auxiliary, NoOptions
from networks.operations import Dropout

DROPOUT = 0.5
KEPT_ACTIVITY = (0.7, 0.9)
NOISE = 0.3


def kept_activity(x: Tensor) -> Tensor:
    """Draw the share of the largest activity above which a position is dropped: a scalar between
    0.7 and 0.9 for a pass.
    """
    lowest, highest = KEPT_ACTIVITY
    return lowest + (highest - lowest) * torch.rand((), device=x.device, dtype=x.dtype)


def relative_noise(x: Tensor) -> Tensor:
    """Draw noise (C, ...) between -0.3 and 0.3, one draw for all samples of x (N, C, ...)."""
    return 2 * NOISE * torch.rand(x.shape[1:], device=x.device, dtype=x.dtype) - NOISE


def drop_active_positions(x: Tensor) -> Tensor:
    """Set features x (N, C, ...) to 0 where their mean over channels reaches a share of the
    sample's largest one.
    """
    activity = x.detach().mean(1, keepdim=True)  # (N, 1, ...)
    axes = tuple(range(1, x.ndim))
    largest = activity.amax(axes, keepdim=True)
    return x * (activity < kept_activity(x) * largest)


def add_relative_noise(x: Tensor) -> Tensor:
    """Return x (N, C, ...) times 1 + noise."""
    return x * (1 + relative_noise(x))


def add_side_heads(decoder: nn.Module, conv: type[nn.Module], class_num: int) -> None:
    """Add the convolutions (`nn.Conv2d` or `nn.Conv3d`) to logits behind the coarser levels of a
    decoder, by their published names.

    The fourth, for the deepest feature, is in the published network too, and no pass uses it.
    """
    for number in (4, 3, 2, 1):
        head = conv(unet.WIDTHS[number], class_num, 3, padding=1)
        decoder.add_module(f"out_conv_dp{number}", head)


def side_logits(decoder: nn.Module, levels: Sequence[Tensor], dropout: nn.Module) -> list[Tensor]:
    """Return the logits (N, class_num, ...) of the three coarser levels at the size of the last
    level, the finest one first.

    `levels`: the decoder's four features, the coarsest (N, 128, ...) first. `dropout` acts on the
    coarsest one.
    """
    coarsest, middle, finest, last = levels
    if decoder.training:
        coarsest = dropout(coarsest)
        middle = drop_active_positions(middle)
        finest = add_relative_noise(finest)
    logits: list[Tensor] = []
    for number, feature in ((1, finest), (2, middle), (3, coarsest)):
        small = decoder.get_submodule(f"out_conv_dp{number}")(feature)
        logits.append(F.interpolate(small, size=last.shape[2:], mode="nearest"))
    return logits


class UNetURPC(unet.UNet):
    """The U-Net with side heads, as published."""

    Options = NoOptions
    auxiliary: ClassVar[Auxiliary] = "levels"

    def __init__(self, in_chns: int = 1, class_num: int = 4) -> None:
        super().__init__(in_chns, class_num, egm="none")
        add_side_heads(self.decoder, nn.Conv2d, class_num)
        self.side_dropout = Dropout(DROPOUT)

    def forward(self, x: Tensor, auxiliary: bool = False) -> Tensor | tuple[Tensor, ...]:
        if not auxiliary:
            return super().forward(x)
        self.check_size(tuple(x.shape[2:]))
        levels = self.decoder.levels(self.encoder(x), None)
        logits = self.decoder.out_conv(levels[-1])
        return (logits, *side_logits(self.decoder, levels, self.side_dropout))


class VNetURPC(vnet.PlainVNet):
    """The V-Net with side heads: ours, since the published 3-D code has another network."""

    auxiliary: ClassVar[Auxiliary] = "levels"

    def __init__(self, in_chns: int = 1, class_num: int = 2, **options: bool) -> None:
        super().__init__(in_chns, class_num, **options)
        add_side_heads(self.decoder, nn.Conv3d, class_num)
        self.side_dropout = Dropout(DROPOUT)

    def forward(self, x: Tensor, auxiliary: bool = False) -> Tensor | tuple[Tensor, ...]:
        if not auxiliary:
            return super().forward(x)
        self.check_size(tuple(x.shape[2:]))
        features = self.features(x)
        feature = features[4]
        levels: list[Tensor] = []
        for level in range(4):
            feature = self.decode_level(self.decoder, level, feature, features[3 - level], None)
            levels.append(feature)
        logits = self.decoder.out_conv(self.dropouts[2](feature))
        return (logits, *side_logits(self.decoder, levels, self.side_dropout))
