"""U-Net and V-Net that decode every image twice, with and without dropout of feature channels
(UniMatch: Yang et al., CVPR 2023).

Their weights are those of the plain networks. The decoder sees both versions of the encoder's
features as one batch, so its batch normalisation is over both.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from networks import VNet_la_ega as vnet
from networks import unet_ega as unet
from networks.base import Auxiliary, NoOptions

DROPOUT = 0.5


def clean_and_dropped(features: Sequence[Tensor], dropout: nn.Module) -> list[Tensor]:
    """Return each feature (N, C, ...) and then its version with channels dropped: (2N, C, ...)."""
    return [torch.cat([feature, dropout(feature)]) for feature in features]


class UNetUniMatch(unet.UNet):
    """The U-Net without edge guidance; `forward(x, auxiliary=True)` returns the logits and those
    from features with dropped channels.
    """

    Options = NoOptions
    auxiliary: ClassVar[Auxiliary] = "dropped"

    def __init__(self, in_chns: int = 1, class_num: int = 4) -> None:
        super().__init__(in_chns, class_num, egm="none")
        self.feature_dropout = nn.Dropout2d(DROPOUT)

    def forward(self, x: Tensor, auxiliary: bool = False) -> Tensor | tuple[Tensor, ...]:
        if not auxiliary:
            return super().forward(x)
        self.check_size(tuple(x.shape[2:]))
        features = clean_and_dropped(self.encoder(x), self.feature_dropout)
        logits = self.decoder(features, None)
        return logits[: len(x)], logits[len(x) :]


class VNetUniMatch(vnet.PlainVNet):
    """The same for the V-Net without edge guidance; the published code has no 3-D network."""

    auxiliary: ClassVar[Auxiliary] = "dropped"

    def __init__(self, in_chns: int = 1, class_num: int = 2, **options: bool) -> None:
        super().__init__(in_chns, class_num, **options)
        self.feature_dropout = nn.Dropout3d(DROPOUT)

    def forward(self, x: Tensor, auxiliary: bool = False) -> Tensor | tuple[Tensor, ...]:
        if not auxiliary:
            return super().forward(x)
        self.check_size(tuple(x.shape[2:]))
        features = clean_and_dropped(self.features(x), self.feature_dropout)
        feature = self.decode(self.decoder, features, None)
        logits = self.decoder.out_conv(self.dropouts[2](feature))
        return logits[: len(x)], logits[len(x) :]
