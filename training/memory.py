"""What a training step will take in memory, told before it begins."""

import copy
import math

import torch
from torch import nn

PROBE_SIDE = 32


def activation_bytes(net: nn.Module, shape: tuple[int, ...]) -> int:
    """Bytes that a training pass over an input of `shape` (N, C, ...) keeps for its backward pass.

    They grow with the number of voxels, so a small pass of a copy of the network is counted and scaled up.
    """
    probe = copy.deepcopy(net).cpu().train()
    small = tuple(min(side, PROBE_SIDE) for side in shape[2:])
    weights = {parameter.untyped_storage()._cdata for parameter in probe.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.detach()  # an output that holds its graph, which holds the output, would never be freed
        kept[tensor.untyped_storage()._cdata] = tensor  # by storage: views and tensors that several layers keep count once
        return tensor

    with torch.random.fork_rng(devices=[]), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = probe(torch.zeros(1, shape[1], *small))
        counted = sum(tensor.untyped_storage().nbytes() for key, tensor in kept.items() if key not in weights)
        del out
    return counted * shape[0] * math.prod(shape[2:]) // math.prod(small)


def step_bytes(net: nn.Module, shape: tuple[int, ...], passes: int, teachers: int, moments: int) -> int:
    """Bytes of a step: `passes` student passes before one backward pass, networks, gradients and `moments` of the optimiser.

    A tenth is added for what the backward pass holds meanwhile.
    """
    weights = sum(parameter.nbytes for parameter in net.parameters())
    return int(1.1 * passes * activation_bytes(net, shape)) + weights * (2 + teachers + moments)
