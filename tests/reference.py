"""The reference numbers in tests/vectors, the rule that fills a network's parameters by name (tests/vectors/README.md), plain formulas."""

import json
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from networks.egm import EGM, smooth_part
from networks.egm_3d import smooth_part_3d

VECTORS = Path(__file__).parent / "vectors"


def pieces() -> dict[str, Tensor]:
    with np.load(VECTORS / "pieces.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


def published_shapes(network: str) -> dict[str, list[int]]:
    """Names and shapes of a published state dict; `vnet_pancreas_bcp`, BCP's own, by the rule that leads to it from the edge-guided one."""
    if network == "vnet_pancreas_bcp":
        return _without_edge_guidance(published_shapes("vnet_pancreas"))
    return json.loads((VECTORS / f"{network}.keys.json").read_text(encoding="utf-8"))


def _without_edge_guidance(shapes: dict[str, list[int]]) -> dict[str, list[int]]:
    """No edge-guided modules, stages named `conv`, and in the two deepest encoder blocks no dropout layers between them."""
    kept = {}
    for key, shape in shapes.items():
        if not key.startswith(("ega", "compute_edge_feature.")):
            for dropping, plain in (("4", "3"), ("8", "6")):
                key = key.replace(f".ops.{dropping}.", f".ops.{plain}.")
            kept[key.replace(".ops.", ".conv.")] = shape
    return kept


def fill(key: str, shape) -> Tensor:
    """The value of entry `key` by the vectors' rule; integer entries and fixed kernels are the caller's to keep."""
    r = torch.randn(tuple(shape), generator=torch.Generator().manual_seed(zlib.crc32(key.encode())))
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
    """L(p), one band of a Laplacian pyramid, (N, C, ...) to the same shape, written out; the modules never compute it as a whole."""
    smooth = smooth_part if p.ndim == 4 else smooth_part_3d
    return p - smooth(p.mean(1, keepdim=True), variant)
