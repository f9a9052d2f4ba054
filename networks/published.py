"""Published weights into our networks."""

from collections.abc import Mapping

from torch import Tensor, nn

UNUSED_HEADS = ("projection_head.", "prediction_head.", "contrastive_class_selector_")


def plain_state_dict(state_dict: Mapping) -> dict[str, Tensor]:
    """The weights alone: taken out of `net` if they lie there, without `module.` prefixes and without the heads that nothing uses."""
    inner = state_dict.get("net", state_dict)
    if not isinstance(inner, Mapping) or not all(isinstance(key, str) and isinstance(value, Tensor) for key, value in inner.items()):
        raise ValueError("not a state dict: expected tensors by name, plain or under 'net'")
    weights = {key.removeprefix("module."): value for key, value in inner.items()}
    return {key: value for key, value in weights.items() if not key.startswith(UNUSED_HEADS)}


def import_state_dict(net: nn.Module, state_dict: Mapping) -> None:
    """Load a published state dict (plain, `module.`-prefixed, or under `net`) into a factory network.

    Raises ValueError, naming the first of them, for missing or unexpected keys and for shapes that differ (a wrong number of classes, say).
    """
    weights, own = plain_state_dict(state_dict), net.state_dict()
    for what, keys in (("lacks", own.keys() - weights.keys()), ("has the unexpected", weights.keys() - own.keys())):
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise ValueError(f"the state dict does not fit the network: it {what} key '{min(keys)}'{more}")
    for key, value in weights.items():
        if value.shape != own[key].shape:
            raise ValueError(f"the state dict does not fit the network: '{key}' is {tuple(value.shape)}, expected {tuple(own[key].shape)}")
    net.load_state_dict(weights)
