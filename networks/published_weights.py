"""Conversion between published state dicts and those of our networks."""

from collections.abc import Iterable, Mapping, Set
from typing import Any, TypeGuard, cast

import torch
from torch import Tensor, nn

UNUSED_HEADS = ("projection_head.", "prediction_head.", "contrastive_class_selector_")
HEAD_WIDTH = 32
HEADLESS = ("decoder2.", "decoder.out_conv2.", "decoder.out_conv_dp")
"""Prefixes of names that only networks without the unused heads have (MC-Net, DTC)."""
SOBEL = "compute_edge_feature.sobel_"
MISFIT = "the state dict does not fit the network"
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def plain_state_dict(state_dict: Mapping[Any, Any]) -> dict[str, Tensor]:
    """Return only the weights: from `net` if they are stored there, without `module.` prefixes and
    without unused heads.

    Raises ValueError if it holds no tensors by name.
    """
    inner = state_dict.get("net", state_dict)
    if not _is_state_dict(inner):
        raise ValueError("not a state dict: expected tensors by name, plain or under 'net'")
    weights = {key.removeprefix("module."): value for key, value in inner.items()}
    return {key: value for key, value in weights.items() if not key.startswith(UNUSED_HEADS)}


def _is_state_dict(value: object) -> TypeGuard[Mapping[str, Tensor]]:
    """Whether the value holds tensors by name."""
    if not isinstance(value, Mapping):
        return False
    items = cast("Mapping[object, object]", value)  # isinstance does not check its content
    return all(isinstance(key, str) and isinstance(item, Tensor) for key, item in items.items())


def import_state_dict(net: nn.Module, state_dict: Mapping[Any, Any]) -> None:
    """Load a published state dict (plain, `module.`-prefixed, or under `net`) into a factory
    network.

    Raises ValueError for missing or unexpected keys, and for different shapes
    (for example of another number of classes) or types; the message names the first of them.
    """
    weights = plain_state_dict(state_dict)
    expected = net.state_dict()
    missing = expected.keys() - weights.keys()
    if missing:
        raise ValueError(f"{MISFIT}: it lacks key {_first_of(missing)}")
    unexpected = weights.keys() - expected.keys()
    if unexpected:
        raise ValueError(f"{MISFIT}: it has the unexpected key {_first_of(unexpected)}")
    for key, value in weights.items():
        target = expected[key]
        if value.shape != target.shape:
            shape = tuple(value.shape)
            raise ValueError(f"{MISFIT}: '{key}' is {shape}, expected {tuple(target.shape)}")
        if value.dtype != target.dtype:
            raise ValueError(f"{MISFIT}: '{key}' holds {value.dtype}, expected {target.dtype}")
    net.load_state_dict(weights)


def _first_of(keys: Set[str]) -> str:
    """Return the first key in quotes, and how many more there are."""
    first = f"'{min(keys)}'"
    if len(keys) == 1:
        return first
    return f"{first} and {len(keys) - 1} more"


def parameter_names(names: Iterable[str], sobel: bool) -> list[str]:
    """Return the names of a state dict that belong to parameters, in its order; `sobel`: include
    the fixed Sobel kernels.
    """
    parameters = [name for name in names if not name.endswith(STATISTICS)]
    if sobel:
        return parameters
    return [name for name in parameters if not name.startswith(SOBEL)]


def published_order(names: Iterable[str]) -> list[str]:
    """Return the names of one of our state dicts in the order of the published classes, which their
    `parameters()` follows.

    The order differs in the pancreas network, where the edge map follows the head, and in the 3-D
    edge-guided modules, where the attention follows CBAM.
    """
    names = list(names)
    if any(name.startswith("branchs.") for name in names):
        edges = [name for name in names if name.startswith("compute_edge_feature.")]
        rest = [name for name in names if name not in edges]
        end = 1 + max(i for i, name in enumerate(rest) if name.startswith("branchs."))
        names = rest[:end] + edges + rest[end:]
    if not any(".adjust_128_to_" in name for name in names):  # only 3-D modules have these
        return names
    # All names of a module's attention and CBAM are sorted to the position of the first of them.
    first: dict[str, int] = {}
    for position, name in enumerate(names):
        first.setdefault(_gate_of(name), position)
    return sorted(names, key=lambda name: (first[_gate_of(name)], ".attention." in name))


def _gate_of(name: str) -> str:
    """Return the edge-guided module of a name in its attention or CBAM; return any other name
    unchanged.
    """
    return name.partition(".attention.")[0].partition(".cbam.")[0]


def published_state_dict(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert one of our state dicts to that of the published class, so that it loads strictly.

    The order is the published one, and unused heads are added with zeros. The networks of Pancreas,
    MC-Net, DTC and URPC have no such heads.
    """
    weights = {name: weights[name].contiguous() for name in published_order(weights)}
    classes = weights.get("decoder.out_conv.bias")
    if classes is None or any(name.startswith(HEADLESS) for name in weights):
        return weights
    heads = _unused_heads(len(classes), weights["decoder.out_conv.weight"].shape[1])
    edge_map: dict[str, Tensor] = {}
    others: dict[str, Tensor] = {}
    for name, value in weights.items():
        if name.startswith("compute_edge_feature."):
            edge_map[name] = value
        else:
            others[name] = value
    if next(iter(weights)) in edge_map:  # the V-Net's edge map comes first
        return weights | heads
    return others | heads | edge_map


def _unused_heads(classes: int, features: int) -> dict[str, Tensor]:
    """Return zeros for the unused heads: projection of a feature, prediction, and two selectors for
    each class.

    Each head is linear, batch norm, ReLU, linear.
    """
    # Number of inputs and outputs of each head.
    shapes = {
        "projection_head": (features, HEAD_WIDTH),
        "prediction_head": (HEAD_WIDTH, HEAD_WIDTH),
    }
    for kind in ("", "memory"):
        for number in range(classes):
            shapes[f"contrastive_class_selector_{kind}{number}"] = (HEAD_WIDTH, 1)
    heads: dict[str, Tensor] = {}
    for name, (inputs, outputs) in shapes.items():
        with torch.device("meta"):  # only shapes are needed, so no random numbers are drawn
            head = nn.Sequential(
                nn.Linear(inputs, HEAD_WIDTH),
                nn.BatchNorm1d(HEAD_WIDTH),
                nn.ReLU(),
                nn.Linear(HEAD_WIDTH, outputs),
            )
        for key, value in head.state_dict().items():
            heads[f"{name}.{key}"] = torch.zeros(value.shape, dtype=value.dtype)
    return heads
