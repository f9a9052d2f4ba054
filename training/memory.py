"""What a training step or a prediction will take in memory, told before it begins."""

import copy
import math
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from methods.base import TrainingStage

PROBE_SIDE = 32


@dataclass(frozen=True)
class StepMemory:
    """`step_bytes`: of a whole step; `images`: how many a learner sees in its smallest pass."""

    step_bytes: int
    images: int

    def lines(self, stage: str, recompute: bool, alone: bool) -> list[str]:
        """What is said of it before a stage; `recompute`: whether that is on, `alone`: whether batch norm sees too few images."""
        advice = (
            "" if recompute else "; --recompute, a smaller --patch_size or fewer images lower that"
        )
        said = [
            f"{stage}: the tensors of a training step will take about {self.step_bytes / 2**30:.1f} GiB, the process that and more (on the "
            f"CPU 1 to 1.5 GiB: docs/performance.md){advice}"
        ]
        if alone:
            said.append(
                f"warning: {stage} sees one patch at a time, too few for batch normalisation: validation, which uses the statistics of "
                "many, may find nothing for long (docs/results/la.md); a --labeled_bs of at least 4 per process gives two, and "
                "--sync_batch_norm counts the patches of all processes"
            )
        return said


def step_memory(
    stage: TrainingStage,
    labelled: int,
    unlabelled: int,
    channels: int,
    patch_size: tuple[int, ...],
    moments: int,
) -> StepMemory:
    """What a step on a batch of `labelled` and `unlabelled` images takes: what its losses keep for a backward pass, all networks, the
    learners' gradients and `moments` of the optimiser; a tenth is added for what the backward pass holds meanwhile.

    What is kept grows with the number of voxels, so a small step of a copy of the stage is counted and scaled up.
    """
    probe = copy.deepcopy(stage)
    for net in probe.networks.values():
        net.cpu().train()
    small = tuple(min(side, PROBE_SIDE) for side in patch_size)
    batch = {
        "image": torch.zeros(labelled + unlabelled, channels, *small),
        "label": torch.zeros(labelled, *small, dtype=torch.long),
    }
    passes: list[int] = []
    for net in probe.learners.values():
        net.register_forward_pre_hook(lambda net, inputs: passes.append(len(inputs[0])))
    kept = _kept_bytes(probe, batch) * math.prod(patch_size) // math.prod(small)
    networks, learners = (
        [sum(p.nbytes for p in net.parameters()) for net in nets.values()]
        for nets in (stage.networks, stage.learners)
    )
    return StepMemory(int(1.1 * kept) + sum(networks) + (1 + moments) * sum(learners), min(passes))


@torch.inference_mode()
def forward_bytes(net: nn.Module, channels: int, patch_size: Sequence[int], images: int) -> int:
    """What a pass of `images` patches through the network holds at its fullest, without gradients, the network itself included.

    Counted on a patch of the smallest sides that it takes and scaled up, as in `step_memory`.
    """
    small = _smallest(net, patch_size)
    probe = copy.deepcopy(net).cpu().eval()
    with LiveBytes() as live:
        probe(torch.zeros(1, channels, *small))
    weights = sum(tensor.nbytes for tensor in (*net.parameters(), *net.buffers()))
    return weights + live.most * images * math.prod(patch_size) // math.prod(small)


def _smallest(net: nn.Module, patch_size: Sequence[int]) -> tuple[int, ...]:
    """Sides of a small patch that the network takes: PROBE_SIDE or, if that is too few for it, more."""
    check_size: Any = net.check_size  # every network has it, see networks.base.Network
    for side in (PROBE_SIDE, 3 * PROBE_SIDE):
        small = tuple(min(whole, side) for whole in patch_size)
        try:
            check_size(small)
        except ValueError:
            continue
        return small
    return tuple(patch_size)


class LiveBytes(TorchDispatchMode):
    """Counts bytes of tensors that are alive at a time; `most`: the most there were."""

    def __init__(self):
        super().__init__()
        self.now = self.most = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if (
                isinstance(tensor, torch.Tensor)
                and (key := (storage := tensor.untyped_storage())._cdata) not in self._known
            ):
                self._known.add(key)  # views share one storage, which counts once
                self.now += storage.nbytes()
                weakref.finalize(storage, self._freed, key, storage.nbytes())
        self.most = max(self.most, self.now)
        return made

    def _freed(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def _kept_bytes(stage: TrainingStage, batch: dict[str, torch.Tensor]) -> int:
    """Bytes that the losses of a batch keep for the largest of their backward passes, parameters not counted."""
    weights = {
        parameter.untyped_storage()._cdata
        for net in stage.networks.values()
        for parameter in net.parameters()
    }
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        tensor = (
            tensor.detach()
        )  # an output that holds its graph, which holds the output, would never be freed
        kept[tensor.untyped_storage()._cdata] = (
            tensor  # by storage: views and tensors that several layers keep count once
        )
        return tensor

    most = 0
    with (
        torch.random.fork_rng(devices=[]),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        for loss in stage.losses(batch, 0):
            most = max(
                most,
                sum(
                    tensor.untyped_storage().nbytes()
                    for key, tensor in kept.items()
                    if key not in weights
                ),
            )
            kept.clear()
            del loss
    return most
