"""Published weights into our networks, and ours back into published names and order."""

from collections.abc import Iterable, Mapping
from typing import Any, TypeGuard, cast

import torch
from torch import Tensor, nn

UNUSED_HEADS = ("projection_head.", "prediction_head.", "contrastive_class_selector_")
HEAD_WIDTH = 32
SOBEL = "compute_edge_feature.sobel_"
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def plain_state_dict(state_dict: Mapping[Any, Any]) -> dict[str, Tensor]:
    """The weights alone: taken out of `net` if they lie there, without `module.` prefixes and without the heads that nothing uses."""
    inner = state_dict.get("net", state_dict)
    if not _is_state_dict(inner):
        raise ValueError("not a state dict: expected tensors by name, plain or under 'net'")
    weights = {key.removeprefix("module."): value for key, value in inner.items()}
    return {key: value for key, value in weights.items() if not key.startswith(UNUSED_HEADS)}


def _is_state_dict(value: object) -> TypeGuard[Mapping[str, Tensor]]:
    """Whether the value holds tensors by name."""
    if not isinstance(value, Mapping):
        return False
    items = cast("Mapping[object, object]", value)  # isinstance says nothing about its content
    return all(isinstance(key, str) and isinstance(item, Tensor) for key, item in items.items())


def import_state_dict(net: nn.Module, state_dict: Mapping[Any, Any]) -> None:
    """Load a published state dict (plain, `module.`-prefixed, or under `net`) into a factory network.

    Raises ValueError, naming the first of them, for missing or unexpected keys and for shapes that differ (a wrong number of classes, say).
    """
    weights, own = plain_state_dict(state_dict), net.state_dict()
    for what, keys in (
        ("lacks", own.keys() - weights.keys()),
        ("has the unexpected", weights.keys() - own.keys()),
    ):
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise ValueError(
                f"the state dict does not fit the network: it {what} key '{min(keys)}'{more}"
            )
    for key, value in weights.items():
        if value.shape != own[key].shape:
            raise ValueError(
                f"the state dict does not fit the network: '{key}' is {tuple(value.shape)}, expected {tuple(own[key].shape)}"
            )
        if value.dtype != own[key].dtype:
            raise ValueError(
                f"the state dict does not fit the network: '{key}' holds {value.dtype}, expected {own[key].dtype}"
            )
    net.load_state_dict(weights)


def parameter_names(names: Iterable[str], sobel: bool) -> list[str]:
    """Those names of a state dict that belong to parameters, in its order; `sobel`: whether the fixed Sobel kernels are among them."""
    return [
        name
        for name in names
        if not name.endswith(STATISTICS) and (sobel or not name.startswith(SOBEL))
    ]


def published_order(names: Iterable[str]) -> list[str]:
    """The names of one of our state dicts in the order in which the published classes register them, which `parameters()` follows.

    It differs in the pancreas network, whose edge map stands behind its head, and in the 3-D edge-guided modules, whose attention
    stands behind their CBAM.
    """
    names = list(names)
    if any(name.startswith("branchs.") for name in names):
        edges = [name for name in names if name.startswith("compute_edge_feature.")]
        rest = [name for name in names if name not in edges]
        behind = 1 + max(i for i, name in enumerate(rest) if name.startswith("branchs."))
        names = rest[:behind] + edges + rest[behind:]
    if not any(".adjust_128_to_" in name for name in names):  # only 3-D modules have these
        return names
    first: dict[str, int] = {}  # where an edge-guided module's attention begins, its CBAM behind it
    for place, name in enumerate(names):
        first.setdefault(_gate_of(name), place)
    return sorted(names, key=lambda name: (first[_gate_of(name)], ".attention." in name))


def _gate_of(name: str) -> str:
    """The edge-guided module of a name of its attention or CBAM; every other name is its own."""
    return name.partition(".attention.")[0].partition(".cbam.")[0]


def published_state_dict(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of ours as the published class has it: its order, and zeros for the heads that nothing uses, so that it loads strictly.

    The pancreas network alone has no such heads.
    """
    weights = {name: weights[name].contiguous() for name in published_order(weights)}
    classes = weights.get("decoder.out_conv.bias")
    if classes is None:
        return weights
    heads = _unused_heads(len(classes), weights["decoder.out_conv.weight"].shape[1])
    behind = {
        name: value for name, value in weights.items() if name.startswith("compute_edge_feature.")
    }
    if next(iter(weights)) in behind:  # the V-Net's edge map comes first
        return weights | heads
    return {name: value for name, value in weights.items() if name not in behind} | heads | behind


def _unused_heads(classes: int, features: int) -> dict[str, Tensor]:
    """Linear, batch norm, (ReLU,) linear each: the projection of a feature, the prediction, and two selectors a class."""
    selectors = [
        f"contrastive_class_selector_{kind}{k}" for kind in ("", "memory") for k in range(classes)
    ]
    shapes = {
        "projection_head": (features, HEAD_WIDTH),
        "prediction_head": (HEAD_WIDTH,) * 2,
    } | dict.fromkeys(selectors, (HEAD_WIDTH, 1))
    heads: dict[str, Tensor] = {}
    for name, (inputs, outputs) in shapes.items():
        with torch.device("meta"):  # shapes alone: nothing is drawn
            head = nn.Sequential(
                nn.Linear(inputs, HEAD_WIDTH),
                nn.BatchNorm1d(HEAD_WIDTH),
                nn.ReLU(),
                nn.Linear(HEAD_WIDTH, outputs),
            )
        heads |= {
            f"{name}.{key}": torch.zeros(value.shape, dtype=value.dtype)
            for key, value in head.state_dict().items()
        }
    return heads
