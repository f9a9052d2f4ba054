"""The reference numbers in tests/vectors, the rules that make networks and batches predictable
(tests/vectors/README.md), plain formulas.
"""

import json
import math
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.base import Batch
from networks.egm import smooth_part
from networks.operations import EGM, smooth_part_3d

VECTORS = Path(__file__).parent / "vectors"


def pieces() -> dict[str, Tensor]:
    with np.load(VECTORS / "pieces.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


def published_shapes(network: str) -> dict[str, list[int]]:
    """Names and shapes of a published state dict; `vnet_pancreas_bcp`, BCP's own, by the rule that
    leads to it from the edge-guided one.
    """
    if network == "vnet_pancreas_bcp":
        return _without_edge_guidance(published_shapes("vnet_pancreas"))
    return json.loads((VECTORS / f"{network}.keys.json").read_text(encoding="utf-8"))


def _without_edge_guidance(shapes: dict[str, list[int]]) -> dict[str, list[int]]:
    """No edge-guided modules, stages named `conv`, and in the two deepest encoder blocks no dropout
    layers between them.
    """
    kept = {}
    for key, shape in shapes.items():
        if not key.startswith(("ega", "compute_edge_feature.")):
            for dropping, plain in (("4", "3"), ("8", "6")):
                key = key.replace(f".ops.{dropping}.", f".ops.{plain}.")
            kept[key.replace(".ops.", ".conv.")] = shape
    return kept


def fill(key: str, shape, suffix: str = "") -> Tensor:
    """The value of entry `key` by the vectors' rule; integer entries and fixed kernels are the
    caller's to keep.

    `suffix`: what a second network adds to the key that is hashed, "/2".
    """
    seed = zlib.crc32(f"{key}{suffix}".encode())
    r = torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed))
    if key.endswith("running_var"):
        return 0.75 + 0.5 * r.abs().clamp(max=1)
    if key.endswith("running_mean"):
        return 0.05 * r
    if r.ndim <= 1:
        return 1 + 0.1 * r if key.endswith("weight") else 0.05 * r
    return r * (1.6 / (r.numel() / r.shape[0])) ** 0.5


def filled_state_dict(network: str) -> dict[str, Tensor]:
    """A published-format state dict with every key of the published one, unused heads among them."""
    sobel = torch.tensor([[[[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]]])
    kept = {
        "compute_edge_feature.sobel_x.weight": sobel,
        "compute_edge_feature.sobel_y.weight": sobel.transpose(2, 3).contiguous(),
    }
    plane = torch.outer(torch.tensor([1.0, 2.0, 1.0]), torch.tensor([1.0, 2.0, 1.0]))
    along_x = torch.einsum("ij,k->ijk", plane, torch.tensor([-1.0, 0.0, 1.0]))
    along_z = torch.stack([0 * plane, -plane, plane])
    for axis, kernel in zip("xyz", (along_x, along_x.transpose(1, 2), along_z), strict=True):
        kept[f"compute_edge_feature.sobel_{axis}"] = kernel[None, None]
    return {
        key: kept[key]
        if key in kept
        else torch.tensor(0)
        if key.endswith("num_batches_tracked")
        else fill(key, shape)
        for key, shape in published_shapes(network).items()
    }


def fill_module(module: nn.Module, prefix: str) -> None:
    """Fill a part of a network as the whole network's rule would, its keys standing below `prefix`."""
    module.load_state_dict(
        {
            key: value if key.endswith("num_batches_tracked") else fill(prefix + key, value.shape)
            for key, value in module.state_dict().items()
        }
    )


def laplacian_band(p: Tensor, variant: EGM = "published") -> Tensor:
    """L(p), one band of a Laplacian pyramid, (N, C, ...) to the same shape, written out; the
    modules never compute it as a whole.
    """
    smooth = smooth_part if p.ndim == 4 else smooth_part_3d
    return p - smooth(p.mean(1, keepdim=True), variant)


class PatternDropout(nn.Module):
    """Dropout made predictable, in training mode: of n entries, number k is dropped where 7k mod
    10 < 10 rate.

    The entries are the channels or, unless `channels`, all elements of a sample.
    """

    def __init__(self, rate: float, channels: bool) -> None:
        super().__init__()
        self.rate = rate
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        shape = x.shape[1:]
        if self.channels:
            shape = (x.shape[1], *[1] * (x.ndim - 2))
        numbers = torch.arange(math.prod(shape), device=x.device)
        kept = (7 * numbers) % 10 >= round(10 * self.rate)
        return x * kept.reshape(shape) / (1 - self.rate)


def predictable(net: nn.Module) -> nn.Module:
    """Return the network in training mode with every dropout replaced by its pattern."""
    for module in list(net.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Dropout | nn.Dropout2d | nn.Dropout3d) and child.p:
                channels = not isinstance(child, nn.Dropout)
                setattr(module, name, PatternDropout(child.p, channels))
    return net.train()


def batches(dims: int, labelled_only: bool, dtype: torch.dtype, steps: range) -> Iterator[Batch]:
    """Yield the vectors' batches of 4 labelled and 4 unlabelled images.

    All are drawn one after another from one generator, in float32, and then converted to `dtype`.
    """
    g = torch.Generator().manual_seed(5)
    for _ in steps:
        if dims == 2:
            image = torch.rand((8, 1, 96, 96), generator=g)
            small = torch.randint(0, 4, (8, 6, 6), generator=g)
        else:
            image = torch.randn((8, 1, 48, 48, 48), generator=g)
            small = torch.randint(0, 2, (8, 4, 4, 4), generator=g)
        enlarged = F.interpolate(small[:, None].float(), size=image.shape[2:], mode="nearest")
        image = image.to(dtype)
        if labelled_only:
            image = image[:4]
        yield {"image": image, "label": enlarged[:4, 0].long()}
