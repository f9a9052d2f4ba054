"""What a training step will take in memory, told before it begins."""

import copy
import math
from dataclasses import dataclass

import torch

from utils.phase import Phase, parts

PROBE_SIDE = 32


@dataclass(frozen=True)
class StepMemory:
    """`step_bytes`: of a whole step; `images`: how many the student sees in its smallest pass."""

    step_bytes: int
    images: int


def step_memory(phase: Phase, labelled: int, unlabelled: int, channels: int, patch_size: tuple[int, ...], moments: int) -> StepMemory:
    """What a step on a batch of `labelled` and `unlabelled` images takes: what its losses keep for a backward pass, all networks, the
    learners' gradients and `moments` of the optimiser; a tenth is added for what the backward pass holds meanwhile.

    What is kept grows with the number of voxels, so a small step of a copy of the phase is counted and scaled up.
    """
    probe = copy.deepcopy(phase)
    for net in probe.networks.values():
        net.cpu().train()
    small = tuple(min(side, PROBE_SIDE) for side in patch_size)
    batch = {
        "image": torch.zeros(labelled + unlabelled, channels, *small),
        "label": torch.zeros(labelled, *small, dtype=torch.long),
    }
    passes: list[int] = []
    probe.student.register_forward_pre_hook(lambda net, inputs: passes.append(len(inputs[0])))
    kept = _kept_bytes(probe, batch) * math.prod(patch_size) // math.prod(small)
    networks, learners = ([sum(p.nbytes for p in net.parameters()) for net in nets.values()] for nets in (phase.networks, phase.learners))
    return StepMemory(int(1.1 * kept) + sum(networks) + (1 + moments) * sum(learners), min(passes))


def _kept_bytes(phase: Phase, batch: dict[str, torch.Tensor]) -> int:
    """Bytes that the losses of a batch keep for the largest of their backward passes, parameters not counted."""
    weights = {parameter.untyped_storage()._cdata for net in phase.networks.values() for parameter in net.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.detach()  # an output that holds its graph, which holds the output, would never be freed
        kept[tensor.untyped_storage()._cdata] = tensor  # by storage: views and tensors that several layers keep count once
        return tensor

    most = 0
    with torch.random.fork_rng(devices=[]), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        for part in parts(phase.losses(batch, 0)):
            most = max(most, sum(tensor.untyped_storage().nbytes() for key, tensor in kept.items() if key not in weights))
            kept.clear()
            del part
    return most
