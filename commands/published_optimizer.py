"""Optimiser state between our checkpoints and published ones.

torch numbers it in the order of `parameters()`, which is the order of the parameters in a network's state dict; ours and the
published order differ (networks/published.py), so everything goes by name.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from networks.published import parameter_names, published_state_dict
from training.checkpoint import Checkpoint
from training.checkpoint_content import ENTRIES


def take_over_momentum(
    optimizer: torch.optim.Optimizer, net: nn.Module, checkpoint: Checkpoint
) -> str:
    """A checkpoint's optimiser state into the optimiser of `net`, which keeps its own numbers; what there is to say of it, in words."""
    if checkpoint.ours:
        optimizer.load_state_dict(optimizer.state_dict() | {"state": checkpoint.optimizer["state"]})
        return ""
    try:
        take_over(optimizer, net, checkpoint)
    except ValueError as error:
        return f", its momentum left behind: {error}"
    return ", its momentum taken over"


def take_over(optimizer: torch.optim.Optimizer, net: nn.Module, checkpoint: Checkpoint) -> None:
    """The optimiser state of a published {'net', 'opt'} into the optimiser of `net`; learning rate, weight decay and the like stay
    the optimiser's own. Raises ValueError, and changes nothing, where there is none or it does not fit."""
    own, state = optimizer.state_dict(), {}
    there = _by_name(checkpoint)
    for number, (name, parameter) in enumerate(net.named_parameters()):
        if name in there:
            state[number] = _checked(there[name], name, parameter, ENTRIES[type(optimizer)])
    if not state:
        raise ValueError("it is empty")
    optimizer.load_state_dict(own | {"state": state})


def _by_name(checkpoint: Checkpoint) -> dict[str, Mapping]:
    try:
        (group,) = checkpoint.optimizer["param_groups"]
        numbers, state = list(group["params"]), dict(checkpoint.optimizer["state"])
    except (KeyError, TypeError, ValueError):
        raise ValueError("there is none") from None
    keys = [key.removeprefix("module.") for key in checkpoint.weights]
    # nothing in a state dict tells whether its Sobel kernels are parameters or buffers: the number of parameters does
    fitting = [
        names
        for names in (parameter_names(keys, sobel) for sobel in (True, False))
        if len(names) == len(numbers)
    ]
    if not fitting:
        raise ValueError(
            f"it is that of {len(numbers)} parameters, the network has {len(parameter_names(keys, False))}"
        )
    return {
        name: state[number]
        for name, number in zip(fitting[0], numbers, strict=True)
        if number in state
    }


def _checked(entry: Mapping, name: str, parameter: Tensor, keys: set[str]) -> dict[str, Tensor]:
    if not isinstance(entry, Mapping) or entry.keys() != keys:
        raise ValueError(f"that of '{name}' is another optimiser's")
    for key, value in entry.items():
        wanted = isinstance(value, Tensor) and value.shape == parameter.shape
        if key == "step":
            wanted = isinstance(value, int | float) or (
                isinstance(value, Tensor) and value.numel() == 1
            )
        if not wanted:
            raise ValueError(f"'{key}' of '{name}' has another shape")
    # older versions of torch keep the step as a plain number
    return {
        key: torch.tensor(float(value)) if key == "step" else value for key, value in entry.items()
    }


def published_optimizer(checkpoint: Checkpoint, sobel: bool) -> dict:
    """The optimiser of a checkpoint of ours as the published code leaves it under `opt`; `sobel`: whether that counts the kernels."""
    (group,) = checkpoint.optimizer["param_groups"]
    names = parameter_names(
        checkpoint.weights, sobel=False
    )  # of our parameters, in our order; our Sobel kernels are buffers
    published = parameter_names(published_state_dict(checkpoint.weights), sobel)
    state = {
        published.index(names[number]): entry
        for number, entry in checkpoint.optimizer["state"].items()
    }
    plain = {
        n: {k: v.contiguous() if isinstance(v, Tensor) else v for k, v in state[n].items()}
        for n in sorted(state)
    }
    return {"state": plain, "param_groups": [group | {"params": list(range(len(published)))}]}
