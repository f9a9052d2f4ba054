"""3-D V-Net of BCP (CVPR 2023, arXiv 2305.00673) with an edge-guided module behind every skip (Hsu & Hua), in both published variants.

They differ in normalisation, dropout, head and the names in their state dicts; the shape is one.
"""

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint  # pyright: ignore[reportUnknownVariableType]  # not annotated

from networks.base import Network
from networks.egm import EGM, EdgeOptions
from networks.egm_3d import EdgeGuidedModule3d, EdgeMap3d
from networks.norm import BatchNorm3d, PassCounter

_checkpoint: Callable[..., Tensor] = checkpoint  # pyright: ignore[reportUnknownVariableType]

WIDTHS = (16, 32, 64, 128, 256)
DOWN = (
    ("one", 1),
    ("two", 2),
    ("three", 3),
    ("four", 3),
    ("five", 3),
)  # block names and their numbers of stages
UP = (("six", 3), ("seven", 3), ("eight", 2), ("nine", 1))
EGM_NAMES = ("ega", "ega_1", "ega_2", "ega_3")


class _Part(nn.Module):
    """A part whose layers lie under `name`, as in the published state dicts."""

    def __init__(self, name: str, *layers: nn.Module):
        super().__init__()
        self.add_module(name, nn.Sequential(*layers))

    def forward(self, x: Tensor) -> Tensor:
        (layers,) = self.children()
        return layers(x)


def _dropout(rate: float) -> nn.Module:
    return nn.Dropout3d(rate) if rate else nn.Identity()


def _stages(
    name: str,
    count: int,
    inputs: int,
    outputs: int,
    norm: type[nn.Module],
    dropout: float | None = None,
) -> _Part:
    """`count` times conv3, norm, ReLU and, if `dropout` is not None, Dropout3d."""
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


def _add_encoder(
    home: nn.Module,
    in_chns: int,
    name: str,
    norm: type[nn.Module],
    dropouts: tuple[float | None, float | None],
) -> None:
    for level, (block, count) in enumerate(DOWN):
        dropout = {3: dropouts[0], 4: dropouts[1]}.get(level)
        home.add_module(
            f"block_{block}",
            _stages(name, count, WIDTHS[level] if level else in_chns, WIDTHS[level], norm, dropout),
        )
        if level < 4:
            home.add_module(
                f"block_{block}_dw", _resampling(nn.Conv3d, WIDTHS[level], WIDTHS[level + 1], norm)
            )


def _add_decoder(home: nn.Module, name: str, norm: type[nn.Module], blocks: int) -> None:
    """Upsampling before each of the four levels, and the stages of the first `blocks` of them."""
    for level, (above, (block, count)) in enumerate(
        zip(("five", "six", "seven", "eight"), UP, strict=True)
    ):
        width = WIDTHS[3 - level]
        home.add_module(
            f"block_{above}_up", _resampling(nn.ConvTranspose3d, 2 * width, width, norm)
        )
        if level < blocks:
            home.add_module(f"block_{block}", _stages(name, count, width, width, norm))


def _add_egms(home: nn.Module, egm: EGM, fusion_dropout: float) -> None:
    for name, width in zip(EGM_NAMES, reversed(WIDTHS[:4]), strict=True):
        home.add_module(name, EdgeGuidedModule3d(width, egm, fusion_dropout))


@contextmanager
def _counted_already(module: nn.Module) -> Generator[None, None, None]:
    """Batch norm leaves its statistics as they are: this batch, computed a second time, is in them."""
    norms = [m for m in module.modules() if isinstance(m, BatchNorm3d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


@dataclass(frozen=True)
class VNetOptions(EdgeOptions):
    recompute: bool = False
    """Activation checkpointing: the backward pass computes the network's blocks again, for less memory and the same numbers."""


class _VNetBase(Network):
    """`forward` takes (N, in_chns, D, H, W), all sides multiples of 16 (else ValueError), and returns logits (N, class_num, D, H, W).

    With `recompute` set, the backward pass computes each block again instead of keeping its inside (activation checkpointing):
    the same numbers in less memory and more time.
    """

    dims: ClassVar[int] = 3
    smallest_batch: ClassVar[int] = 1
    Options = VNetOptions
    passes: PassCounter

    def __init__(self, egm: EGM, recompute: bool):
        super().__init__()
        self.recompute = recompute
        self.compute_edge_feature = None if egm == "none" else EdgeMap3d(egm)

    def check_size(self, size: tuple[int, ...], images: int = 2) -> None:
        """Raise ValueError where a pass of `images` inputs of `size` does not fit the network."""
        if any(side % 16 or side <= 0 for side in size):
            raise ValueError(
                f"an input of {'x'.join(map(str, size))} does not fit the V-Net: all three sides must be multiples of 16"
            )
        if max(size) == 16 and images < self.smallest_batch:
            raise ValueError(
                "normalisation needs more than one voxel of one image at the deepest level: use 32 on one side or more images"
            )

    def start(self, x: Tensor) -> None:
        self.check_size(tuple(x.shape[2:]))
        if self.training:
            self.passes.count()

    def run(self, module: nn.Module, *arguments: Any) -> Tensor:
        if not (self.recompute and self.training and torch.is_grad_enabled()):
            return module(*arguments)
        return _checkpoint(
            module,
            *arguments,
            use_reentrant=False,
            context_fn=lambda: (nullcontext(), _counted_already(module)),
        )

    def encode(
        self, home: nn.Module, x: Tensor, dropouts: Mapping[int, nn.Module] = MappingProxyType({})
    ) -> list[Tensor]:
        """The five features; what a level's dropout leaves of one goes both down and into the skip."""
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
        x = features[4]
        for level, (above, (block, _)) in enumerate(
            zip(("five", "six", "seven", "eight"), UP, strict=True)
        ):
            x = home.get_submodule(f"block_{above}_up")(x) + features[3 - level]
            if edge is not None and self.compute_edge_feature is not None:
                module = home.get_submodule(EGM_NAMES[level])
                x = self.run(module, x, edge, self.compute_edge_feature.conv_adjust)
            # the pancreas network keeps its last block in its head
            if hasattr(home, f"block_{block}"):
                x = self.run(home.get_submodule(f"block_{block}"), x)
        return x

    def edge_map(self, x: Tensor) -> Tensor | None:
        if self.compute_edge_feature is None:
            return None
        return self.compute_edge_feature(x)


class _Decoder(nn.Module):
    """The home of the V-Net's decoder in its state dict."""

    out_conv: nn.Conv3d


class VNet(_VNetBase):
    """The left-atrium V-Net, and without edge guidance BCP's and CoGRNet's: batch norm; if `has_dropout`, dropout on the deepest feature
    and before the last convolution, with edge guidance on the second deepest too."""

    smallest_batch = (
        2  # one patch at a time is too few for batch normalisation (docs/results/la.md)
    )

    def __init__(
        self,
        in_chns: int = 1,
        class_num: int = 2,
        egm: EGM = "published",
        has_dropout: bool = True,
        recompute: bool = False,
    ):
        super().__init__(egm, recompute)
        self.encoder = nn.Module()
        self.decoder = _Decoder()
        _add_encoder(self.encoder, in_chns, "conv", BatchNorm3d, (None, None))
        _add_decoder(self.decoder, "conv", BatchNorm3d, blocks=4)
        self.decoder.out_conv = nn.Conv3d(WIDTHS[0], class_num, 1)
        if egm != "none":
            _add_egms(self.decoder, egm, fusion_dropout=0.4)
        rates = (0.0 if egm == "none" else 0.4, 0.5, 0.5)
        self.dropouts = nn.ModuleList([_dropout(rate if has_dropout else 0.0) for rate in rates])
        self.passes = PassCounter(self)

    def forward(self, x: Tensor) -> Tensor:
        self.start(x)
        features = self.encode(self.encoder, x, {3: self.dropouts[0], 4: self.dropouts[1]})
        x = self.decode(self.decoder, features, self.edge_map(x))
        return self.decoder.out_conv(self.dropouts[2](x))


class VNetPancreas(_VNetBase):
    """The pancreas V-Net: instance norm without parameters, everything at the top of its state dict, the last block part of its only
    head `branchs.0`. With edge guidance: dropout in the stages of the two deepest blocks, and stages named `ops`; without it BCP's
    own: no dropout, stages named `conv`."""

    def check_size(self, size: tuple[int, ...], images: int = 2) -> None:
        super().check_size(size, images)
        if max(size) == 16:
            raise ValueError(
                "instance normalisation needs more than one voxel at the deepest level: use 32 on one side"
            )

    def __init__(
        self,
        in_chns: int = 1,
        class_num: int = 2,
        egm: EGM = "published",
        has_dropout: bool = True,
        recompute: bool = False,
    ):
        super().__init__(egm, recompute)
        name, dropouts = (
            ("conv", (None, None))
            if egm == "none"
            else ("ops", (0.4, 0.5) if has_dropout else (0.0, 0.0))
        )
        _add_encoder(self, in_chns, name, nn.InstanceNorm3d, dropouts)
        _add_decoder(self, name, nn.InstanceNorm3d, blocks=3)
        head = nn.Sequential(
            _stages(name, 1, WIDTHS[0], WIDTHS[0], nn.InstanceNorm3d),
            nn.Conv3d(WIDTHS[0], class_num, 1),
        )
        self.branchs = nn.ModuleList([head])
        if egm != "none":
            _add_egms(self, egm, fusion_dropout=0.3)
        self.passes = PassCounter(self)

    def forward(self, x: Tensor) -> Tensor:
        self.start(x)
        return self.branchs[0](self.decode(self, self.encode(self, x), self.edge_map(x)))
