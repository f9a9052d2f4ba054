"""3-D V-Net of BCP (CVPR 2023, arXiv 2305.00673) with an edge-guided module after every skip
(Hsu & Hua), in both published variants.

The variants have the same shape and differ in normalisation, dropout, head and the names in their
state dicts.
"""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint  # pyright: ignore[reportUnknownVariableType]

from networks.base import Auxiliary, Network
from networks.egm import EdgeOptions
from networks.egm_3d import EdgeGuidedModule3d, EdgeMap3d
from networks.norm import frozen_statistics
from networks.operations import EGM, resize_trilinear

_checkpoint: Callable[..., Tensor] = checkpoint  # pyright: ignore[reportUnknownVariableType]

Doubling = Literal["transposed", "trilinear", "nearest"]
"""How a decoder doubles the sides of its maps; transposed: by a transposed convolution, else by
interpolation and a convolution.
"""

WIDTHS = (16, 32, 64, 128, 256)
# Block names and their numbers of stages.
DOWN = (("one", 1), ("two", 2), ("three", 3), ("four", 3), ("five", 3))
UP = (("six", 3), ("seven", 3), ("eight", 2), ("nine", 1))
# The block whose feature each decoder level upsamples.
UPSAMPLED = ("five", "six", "seven", "eight")
EGM_NAMES = ("ega", "ega_1", "ega_2", "ega_3")


class _Part(nn.Module):
    """Layers in sequence, under `name` in the state dict, as in the published ones."""

    def __init__(self, name: str, *layers: nn.Module) -> None:
        super().__init__()
        self.add_module(name, nn.Sequential(*layers))

    def forward(self, x: Tensor) -> Tensor:
        (layers,) = self.children()
        return layers(x)


def _dropout(rate: float) -> nn.Module:
    if rate == 0:
        return nn.Identity()
    return nn.Dropout3d(rate)


def _stages(
    name: str,
    count: int,
    inputs: int,
    outputs: int,
    norm: type[nn.Module],
    dropout: float | None = None,
) -> _Part:
    """Return `count` stages of conv3, norm, ReLU and, if `dropout` is not None, Dropout3d."""
    layers: list[nn.Module] = []
    width = inputs
    for _ in range(count):
        layers += [nn.Conv3d(width, outputs, 3, padding=1), norm(outputs), nn.ReLU(inplace=True)]
        if dropout is not None:
            layers.append(nn.Dropout3d(dropout))
        width = outputs
    return _Part(name, *layers)


def _resampling(conv: type[nn.Module], inputs: int, outputs: int, norm: type[nn.Module]) -> _Part:
    return _Part("conv", conv(inputs, outputs, 2, stride=2), norm(outputs), nn.ReLU(inplace=True))


class TrilinearUpsample(nn.Module):
    """x2 trilinear upsampling, corners aligned."""

    def forward(self, x: Tensor) -> Tensor:
        return resize_trilinear(x, tuple(2 * side for side in x.shape[2:]))


def _doubling(doubling: Doubling, inputs: int, outputs: int, norm: type[nn.Module]) -> _Part:
    """Return the layers that double the sides of a volume."""
    if doubling == "transposed":
        return _resampling(nn.ConvTranspose3d, inputs, outputs, norm=norm)
    upsample: nn.Module = nn.Upsample(scale_factor=2)
    if doubling == "trilinear":
        upsample = TrilinearUpsample()
    conv = nn.Conv3d(inputs, outputs, 3, padding=1)
    return _Part("conv", upsample, conv, norm(outputs), nn.ReLU(inplace=True))


def _add_encoder(
    home: nn.Module,
    in_chns: int,
    name: str,
    norm: type[nn.Module],
    dropouts: tuple[float | None, float | None],
) -> None:
    """Add the five blocks of the encoder to `home`; `dropouts` are the rates of the two deepest
    ones, None for no dropout layers.
    """
    rates = (None, None, None, *dropouts)
    inputs = in_chns
    for level, (block, count) in enumerate(DOWN):
        width = WIDTHS[level]
        stages = _stages(name, count, inputs, width, norm=norm, dropout=rates[level])
        home.add_module(f"block_{block}", stages)
        if level < 4:
            inputs = WIDTHS[level + 1]
            home.add_module(f"block_{block}_dw", _resampling(nn.Conv3d, width, inputs, norm=norm))


def _add_decoder(
    home: nn.Module,
    name: str,
    norm: type[nn.Module],
    blocks: int,
    doubling: Doubling = "transposed",
) -> None:
    """Add the four levels of the decoder to `home`: upsampling in each, and stages in the first
    `blocks` of them.
    """
    for level, (block, count) in enumerate(UP):
        width = WIDTHS[3 - level]
        upsampling = _doubling(doubling, 2 * width, width, norm=norm)
        home.add_module(f"block_{UPSAMPLED[level]}_up", upsampling)
        if level < blocks:
            home.add_module(f"block_{block}", _stages(name, count, width, width, norm=norm))


def _add_egms(home: nn.Module, egm: EGM, fusion_dropout: float) -> None:
    for name, width in zip(EGM_NAMES, reversed(WIDTHS[:4]), strict=True):
        home.add_module(name, EdgeGuidedModule3d(width, egm, fusion_dropout))


@dataclass(frozen=True)
class RecomputeOptions:
    """Options of every V-Net."""

    recompute: bool = False
    """Activation checkpointing: the backward pass computes the network's blocks again. This needs
    less memory and gives the same numbers.
    """
    has_dropout: bool = True
    """Dropout of the V-Net, as published. The dropout before the last convolution drops half of its
    16 channels, which is too much for many classes. Own data with several classes are trained
    without dropout.
    """


@dataclass(frozen=True)
class VNetOptions(RecomputeOptions, EdgeOptions):
    """Those of the edge-guided modules and of activation checkpointing."""


class _VNetBase(Network):
    """`forward` takes (N, in_chns, D, H, W), all sides multiples of 16 (else ValueError), and
    returns logits (N, class_num, D, H, W).

    With `recompute`, the backward pass computes each block again instead of storing its activations
    (activation checkpointing): the same numbers with less memory and more time.
    """

    dims: ClassVar[int] = 3
    smallest_batch: ClassVar[int] = 1
    Options = VNetOptions

    def __init__(self, egm: EGM, recompute: bool) -> None:
        super().__init__()
        self.recompute = recompute
        self.compute_edge_feature = None
        if egm != "none":
            self.compute_edge_feature = EdgeMap3d(egm)

    def check_size(self, size: tuple[int, ...], images: int = 2) -> None:
        """Raise ValueError where a pass of `images` inputs of `size` does not fit the network."""
        if any(side % 16 or side <= 0 for side in size):
            shape = "x".join(map(str, size))
            raise ValueError(
                f"an input of {shape} does not fit the V-Net: all three sides must be multiples "
                "of 16"
            )
        if max(size) == 16 and images < self.smallest_batch:
            raise ValueError(
                "normalisation needs more than one voxel of one image at the deepest level: use "
                "32 on one side or more images"
            )

    def run(self, module: nn.Module, *arguments: Any) -> Tensor:
        """Call a module, with activation checkpointing if `recompute` is set and gradients are
        needed.
        """
        if not (self.recompute and self.training and torch.is_grad_enabled()):
            return module(*arguments)
        return _checkpoint(
            module,
            *arguments,
            use_reentrant=False,
            context_fn=lambda: (nullcontext(), frozen_statistics(module)),
        )

    def encode(
        self, home: nn.Module, x: Tensor, dropouts: Mapping[int, nn.Module] = MappingProxyType({})
    ) -> list[Tensor]:
        """Return the five features.

        The dropout of a level (`dropouts`, by level) applies to both the next level and the skip.
        """
        features: list[Tensor] = []  # (N, 16, D, H, W) ... (N, 256, D / 16, H / 16, W / 16)
        for level, (block, _) in enumerate(DOWN):
            x = self.run(home.get_submodule(f"block_{block}"), x)
            if level in dropouts:
                x = dropouts[level](x)
            features.append(x)
            if level < 4:
                x = home.get_submodule(f"block_{block}_dw")(x)
        return features

    def decode(self, home: nn.Module, features: list[Tensor], edge: Tensor | None) -> Tensor:
        """Return the decoder's last feature (N, 16, D, H, W) from the encoder's five; `edge` is the
        edge map, None without modules.
        """
        x = features[4]
        for level in range(4):
            x = self.decode_level(home, level, x, features[3 - level], edge)
        return x

    def decode_level(
        self, home: nn.Module, level: int, x: Tensor, skip: Tensor, edge: Tensor | None
    ) -> Tensor:
        """Return the feature of a level of the decoder (0: the coarsest, with 128 channels) from
        the one below it and the skip.
        """
        block, _ = UP[level]
        x = home.get_submodule(f"block_{UPSAMPLED[level]}_up")(x) + skip
        if edge is not None and self.compute_edge_feature is not None:
            module = home.get_submodule(EGM_NAMES[level])
            x = self.run(module, x, edge, self.compute_edge_feature.conv_adjust)
        # the pancreas network keeps its last block in its head
        if hasattr(home, f"block_{block}"):
            x = self.run(home.get_submodule(f"block_{block}"), x)
        return x

    def edge_map(self, x: Tensor) -> Tensor | None:
        """Return the edge map of an input; None for a network without edge-guided modules."""
        if self.compute_edge_feature is None:
            return None
        return self.compute_edge_feature(x)


class Decoder(nn.Module):
    """The decoder of the V-Net with batch norm, and its convolution to logits; `_VNetBase.decode`
    runs it.
    """

    def __init__(self, class_num: int, doubling: Doubling = "transposed") -> None:
        super().__init__()
        _add_decoder(self, "conv", nn.BatchNorm3d, blocks=4, doubling=doubling)
        self.out_conv = nn.Conv3d(WIDTHS[0], class_num, 1)


class VNet(_VNetBase):
    """The left-atrium V-Net with batch norm; without edge guidance it is that of BCP and CoGRNet.

    If `has_dropout`, dropout acts on the deepest feature and before the last convolution, and with
    edge guidance also on the second deepest feature.
    """

    smallest_batch = 2  # batch norm needs more than one patch per pass (docs/results/la.md)
    auxiliary: ClassVar[Auxiliary] = "feature"
    deepest: ClassVar[str] = "encoder.block_five"

    def __init__(
        self,
        in_chns: int = 1,
        class_num: int = 2,
        egm: EGM = "published",
        has_dropout: bool = True,
        recompute: bool = False,
    ) -> None:
        super().__init__(egm, recompute)
        self.encoder = nn.Module()
        _add_encoder(self.encoder, in_chns, "conv", nn.BatchNorm3d, (None, None))
        self.decoder = Decoder(class_num)
        self.feature_channels = WIDTHS[0]
        if egm != "none":
            _add_egms(self.decoder, egm, fusion_dropout=0.4)
        rates = (0.4, 0.5, 0.5)
        if egm == "none":
            rates = (0.0, 0.5, 0.5)
        if not has_dropout:
            rates = (0.0, 0.0, 0.0)
        self.dropouts = nn.ModuleList([_dropout(rate) for rate in rates])

    def features(self, x: Tensor) -> list[Tensor]:
        """Return the encoder's five features."""
        return self.encode(self.encoder, x, {3: self.dropouts[0], 4: self.dropouts[1]})

    def forward(self, x: Tensor, auxiliary: bool = False) -> Tensor | tuple[Tensor, ...]:
        self.check_size(tuple(x.shape[2:]))
        features = self.features(x)
        feature = self.dropouts[2](self.decode(self.decoder, features, self.edge_map(x)))
        logits = self.decoder.out_conv(feature)
        if auxiliary:
            return logits, feature
        return logits


class PlainVNet(VNet):
    """The left-atrium V-Net without edge guidance: the base of networks that add heads or decoders
    to it.

    The `options` of their constructors are `has_dropout` and `recompute`.
    """

    Options = RecomputeOptions

    def __init__(
        self,
        in_chns: int = 1,
        class_num: int = 2,
        has_dropout: bool = True,
        recompute: bool = False,
    ) -> None:
        super().__init__(in_chns, class_num, "none", has_dropout, recompute)


class VNetPancreas(_VNetBase):
    """The pancreas V-Net: instance norm without parameters; its last block is part of its only head
    `branchs.0`.

    All names are at the top level of its state dict. With edge guidance, the stages are named `ops`
    and those of the two deepest blocks have dropout. Without it, the network is BCP's: stages named
    `conv`, no dropout.
    """

    deepest: ClassVar[str] = "block_five"

    def check_size(self, size: tuple[int, ...], images: int = 2) -> None:
        super().check_size(size, images)
        if max(size) == 16:
            raise ValueError(
                "instance normalisation needs more than one voxel at the deepest level: use 32 on "
                "one side"
            )

    def __init__(
        self,
        in_chns: int = 1,
        class_num: int = 2,
        egm: EGM = "published",
        has_dropout: bool = True,
        recompute: bool = False,
    ) -> None:
        super().__init__(egm, recompute)
        name = "ops"
        dropouts: tuple[float | None, float | None] = (0.4, 0.5)
        if not has_dropout:
            dropouts = (0.0, 0.0)
        if egm == "none":
            name = "conv"
            dropouts = (None, None)
        _add_encoder(self, in_chns, name, nn.InstanceNorm3d, dropouts)
        _add_decoder(self, name, nn.InstanceNorm3d, blocks=3)
        head = nn.Sequential(
            _stages(name, 1, WIDTHS[0], WIDTHS[0], nn.InstanceNorm3d),
            nn.Conv3d(WIDTHS[0], class_num, 1),
        )
        self.branchs = nn.ModuleList([head])
        if egm != "none":
            _add_egms(self, egm, fusion_dropout=0.3)

    def forward(self, x: Tensor) -> Tensor:
        self.check_size(tuple(x.shape[2:]))
        features = self.encode(self, x)
        x = self.decode(self, features, self.edge_map(x))
        return self.branchs[0](x)
