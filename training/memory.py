"""Estimates of the memory of a training step or a prediction, reported before it begins."""

# torch names the identity of a storage _cdata, and does not annotate TorchDispatchMode.
# pyright: reportPrivateUsage=false, reportUnknownMemberType=false

import copy
import math
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
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
    """`step_bytes`: memory of a step. `images`: images in a learner's smallest pass."""

    step_bytes: int
    images: int

    def lines(self, stage: str, recompute: bool, has_few_images: bool) -> list[str]:
        """Return the messages before a stage.

        `recompute`: whether --recompute is on. `has_few_images`: whether batch norm sees too few
        images.
        """
        advice = ""
        if not recompute:
            advice = "; --recompute, a smaller --patch_size or fewer images need less"
        messages = [
            f"{stage}: the tensors of a training step need about "
            f"{self.step_bytes / 2**30:.1f} GiB, the whole process more (on the CPU 1 to 1.5 GiB "
            f"more: docs/performance.md){advice}"
        ]
        if has_few_images:
            messages.append(
                f"warning: {stage} sees one patch at a time, too few for batch normalisation. "
                "Validation uses running statistics, so it may segment nothing for a long time "
                "(docs/results/la.md). Use a --labeled_bs of at least 4 times the number of "
                "processes, which gives two patches, or --sync_batch_norm, which counts the "
                "patches of all processes"
            )
        return messages


def step_memory(
    stage: TrainingStage[Any],
    labelled: int,
    unlabelled: int,
    channels: int,
    patch_size: tuple[int, ...],
    moments: int,
) -> StepMemory:
    """Estimate the memory of a step on a batch of `labelled` and `unlabelled` images.

    It is what the losses keep for a backward pass, all networks, the learners' gradients and
    `moments` tensors of the optimiser per parameter; a tenth is added for temporary tensors of the
    backward pass. What is kept grows with the number of voxels, so a small step of a copy of the
    stage is measured and scaled up.
    """
    probe = copy.deepcopy(stage)
    for network in probe.networks.values():
        network.cpu().train()
    small = _smallest(stage.networks.values(), patch_size)
    batch = {
        "image": torch.zeros(labelled + unlabelled, channels, *small),
        "label": torch.zeros(labelled, *small, dtype=torch.long),
    }
    passes: list[int] = []

    def count_images(network: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        passes.append(len(inputs[0]))

    for learner in probe.learners.values():
        learner.register_forward_pre_hook(count_images)
    kept = _kept_bytes(probe, batch) * math.prod(patch_size) // math.prod(small)
    learners = _parameter_bytes(stage.learners)
    fixed = _parameter_bytes(stage.networks) + (1 + moments) * learners
    return StepMemory(int(1.1 * kept) + fixed, images=min(passes))


def _parameter_bytes(networks: Mapping[str, nn.Module]) -> int:
    total = 0
    for network in networks.values():
        total += sum(parameter.nbytes for parameter in network.parameters())
    return total


@torch.inference_mode()
def forward_bytes(net: nn.Module, channels: int, patch_size: Sequence[int], images: int) -> int:
    """Return the peak memory of a pass of `images` patches without gradients, network included.

    Measured on a patch of the smallest sides that the network takes and scaled up.
    """
    small = _smallest([net], patch_size)
    probe = copy.deepcopy(net).cpu().eval()
    with LiveBytes() as live:
        probe(torch.zeros(1, channels, *small))
    weights = sum(tensor.nbytes for tensor in (*net.parameters(), *net.buffers()))
    return weights + live.most * images * math.prod(patch_size) // math.prod(small)


def _smallest(networks: Collection[nn.Module], patch_size: Sequence[int]) -> tuple[int, ...]:
    """Return sides of a small patch that all networks take, PROBE_SIDE if possible."""
    for side in (PROBE_SIDE, 3 * PROBE_SIDE):
        small = tuple(min(whole, side) for whole in patch_size)
        if all(_takes(network, small) for network in networks):
            return small
    return tuple(patch_size)


def _takes(network: nn.Module, size: tuple[int, ...]) -> bool:
    """Whether a network takes a patch of this size."""
    check_size: Any = getattr(network, "check_size", None)
    if check_size is None:  # not a whole network, but heads on its features
        return True
    try:
        check_size(size)
    except ValueError:
        return False
    return True


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors that are alive; `most` is their maximum."""

    def __init__(self) -> None:
        """Start with no tensors."""
        super().__init__()
        self.now = 0
        self.most = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run an operation and count the tensors that it creates."""
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor)
        self.most = max(self.most, self.now)
        return result

    def _count(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._known:  # views share one storage, which counts once
            self._known.add(key)
            self.now += storage.nbytes()
            weakref.finalize(storage, self._freed, key, storage.nbytes())

    def _freed(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def _kept_bytes(stage: TrainingStage[Any], batch: dict[str, torch.Tensor]) -> int:
    """Return the bytes kept for the largest backward pass of a step, parameters not counted."""
    weights: set[int] = set()
    for network in stage.networks.values():
        for parameter in network.parameters():
            weights.add(parameter.untyped_storage()._cdata)
    # by storage: views, and tensors that several layers keep, count once
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        # an output that holds its graph, which holds the output, would never be freed
        detached = tensor.detach()
        kept[detached.untyped_storage()._cdata] = detached
        return detached

    most = 0
    with (
        torch.random.fork_rng(devices=[]),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        for loss in stage.losses(batch, 0):
            size = 0
            for key, tensor in kept.items():
                if key not in weights:
                    size += tensor.untyped_storage().nbytes()
            most = max(most, size)
            kept.clear()
            del loss
    return most
