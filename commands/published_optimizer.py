"""Convert optimiser states between our checkpoints and published ones.

torch numbers the entries in the order of `parameters()`, which is the order of the parameters in a
network's state dict. Ours differs from the published order (networks/published_weights.py), so
entries are matched by name.
"""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from networks.published_weights import parameter_names, published_state_dict
from training.checkpoint import Checkpoint
from training.checkpoint_content import ENTRIES


def take_over_momentum(
    optimizer: torch.optim.Optimizer, net: nn.Module, checkpoint: Checkpoint
) -> str:
    """Load a checkpoint's optimiser state into the optimiser of `net`, which keeps its own
    settings.

    Returns the end of a message about it.
    """
    if checkpoint.ours and checkpoint.optimizer is not None:
        # torch keeps the tensors that it is given, and several learners can start from one state.
        state = deepcopy(checkpoint.optimizer["state"])
        optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
        return ""
    try:
        take_over(optimizer, net, checkpoint)
    except ValueError as error:
        return f", without its momentum: {error}"
    return ", with its momentum"


def take_over(optimizer: torch.optim.Optimizer, net: nn.Module, checkpoint: Checkpoint) -> None:
    """Load the optimiser state of a published {'net', 'opt'} into the optimiser of `net`.

    The optimiser keeps its learning rate, weight decay and other settings. Raises ValueError, and
    changes nothing, if there is no state or if it does not fit.
    """
    published = _entries_by_name(checkpoint)
    state: dict[int, dict[str, Tensor]] = {}
    for number, (name, parameter) in enumerate(net.named_parameters()):
        if name in published:
            keys = ENTRIES[type(optimizer)]
            state[number] = _checked(published[name], name, parameter=parameter, keys=keys)
    if not state:
        raise ValueError("it is empty")
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})


def _entries_by_name(checkpoint: Checkpoint) -> dict[str, Any]:
    """The entries of a published optimiser by the names of their parameters."""
    try:
        (group,) = (checkpoint.optimizer or {})["param_groups"]
        numbers = list(group["params"])
        state = dict((checkpoint.optimizer or {})["state"])
    except (KeyError, TypeError, ValueError):
        raise ValueError("there is none") from None
    keys = [key.removeprefix("module.") for key in checkpoint.weights]
    # A state dict does not show whether its Sobel kernels are parameters or buffers. The number of
    # parameters does.
    for sobel in (True, False):
        names = parameter_names(keys, sobel=sobel)
        if len(names) == len(numbers):
            pairs = zip(names, numbers, strict=True)
            return {name: state[number] for name, number in pairs if number in state}
    raise ValueError(
        f"it is that of {len(numbers)} parameters, the network has "
        f"{len(parameter_names(keys, sobel=False))}"
    )


def _checked(entry: object, name: str, parameter: Tensor, keys: set[str]) -> dict[str, Tensor]:
    """The state of one parameter.

    Raises ValueError if it does not have these keys and its shape.
    """
    if not isinstance(entry, Mapping) or entry.keys() != keys:
        raise ValueError(f"that of '{name}' is another optimiser's")
    checked: dict[str, Tensor] = {}
    for key, value in entry.items():
        if key == "step" and isinstance(value, int | float):
            checked[key] = torch.tensor(float(value))  # as older versions of torch store it
            continue
        is_tensor = isinstance(value, Tensor)
        if key == "step" and is_tensor and value.numel() == 1:
            checked[key] = torch.tensor(float(value))
        elif key != "step" and is_tensor and value.shape == parameter.shape:
            checked[key] = value.clone()  # several learners can start from one state
        else:
            raise ValueError(f"'{key}' of '{name}' has another shape")
    return checked


def published_optimizer(checkpoint: Checkpoint, sobel: bool) -> dict[str, Any]:
    """The optimiser of a checkpoint of ours as the published code stores it under `opt`.

    `sobel`: whether the reading code counts the fixed Sobel kernels as parameters.
    """
    optimizer = checkpoint.optimizer or {}
    (group,) = optimizer["param_groups"]
    # of our parameters, in our order; our Sobel kernels are buffers
    names = parameter_names(checkpoint.weights, sobel=False)
    published = parameter_names(published_state_dict(checkpoint.weights), sobel)
    state: dict[int, dict[str, object]] = {}
    for number, entry in optimizer["state"].items():
        state[published.index(names[number])] = {
            key: _contiguous(value) for key, value in entry.items()
        }
    return {
        "state": dict(sorted(state.items())),
        "param_groups": [group | {"params": list(range(len(published)))}],
    }


def _contiguous(value: object) -> object:
    if isinstance(value, Tensor):
        return value.contiguous()
    return value
