"""What a training step will take in memory, told before it begins."""

import copy

import torch
from torch import nn


def activation_bytes(net: nn.Module, shape: tuple[int, ...]) -> int:
    """Bytes that one training pass over an input of `shape` keeps for its backward pass, found by a pass without data."""
    ghost = copy.deepcopy(net).to("meta").train()
    weights = {parameter.untyped_storage()._cdata for parameter in ghost.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor  # by storage: views and tensors that several layers keep count once
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = ghost(torch.empty(shape, device="meta"))
        total = sum(tensor.untyped_storage().nbytes() for key, tensor in kept.items() if key not in weights)
        del out
    return total


def step_bytes(net: nn.Module, shape: tuple[int, ...], passes: int, teachers: int, moments: int) -> int:
    """Bytes of a step: `passes` student passes before one backward pass, networks, gradients and `moments` of the optimiser.

    A tenth is added for what the backward pass holds meanwhile.
    """
    weights = sum(parameter.nbytes for parameter in net.parameters())
    return int(1.1 * passes * activation_bytes(net, shape)) + weights * (2 + teachers + moments)
