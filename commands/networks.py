"""Networks from settings, and weights from checkpoints."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from dataloaders.dataset_info import DatasetInfo
from methods.stage_networks import MEAN
from networks import net_factory_ega, net_factory_la_ega
from networks.base import Network
from networks.mean import MeanOfNetworks
from networks.norm import synchronise
from networks.published_weights import import_state_dict
from networks.registry import NETWORKS, network_options
from training.checkpoint import Checkpoint
from training.distributed import world
from utils.errors import UserError

LARGEST = 2**28
FACTORIES = {2: net_factory_ega.net_factory, 3: net_factory_la_ega.net_factory}


def build_network(info: DatasetInfo, model: str, options: Mapping[str, object]) -> Network:
    """Build the network `model` on the CPU with those of the `options` that it has.

    Raises UserError for an unknown network, one that does not suit the data, and a value that an
    option cannot have.
    """
    network = NETWORKS.get(model)
    if network is not None and network.dims != info.dims:
        names = [name for name, other in NETWORKS.items() if other.dims == info.dims]
        raise UserError(
            f"--model {model}: takes {network.dims}-D images, {info.name} has {info.dims}-D ones; "
            f"choose from {', '.join(names)}"
        )
    try:
        known: dict[str, Any] = {}
        if network is not None:
            known = network_options(model, options)
        return FACTORIES[info.dims](model, info.channels, info.classes, **known)
    except (ValueError, TypeError) as error:  # a forged checkpoint may name any option
        raise UserError(f"--model {model}: {error}") from None


def default_options(model: str) -> dict[str, Any]:
    """The options of a network whose checkpoint does not record them: their defaults."""
    network = NETWORKS.get(model)
    if network is None:
        return {}
    return {field.name: field.default for field in fields(network.Options)}


def check_patch(net: Network | MeanOfNetworks, patch_size: Sequence[int], images: int = 2) -> None:
    """Raise UserError if the network cannot take `images` patches of that size in a pass."""
    flag = f"--patch_size {' '.join(str(side) for side in patch_size)}"
    if len(patch_size) != net.dims:
        example = " ".join(["96"] * net.dims)
        raise UserError(f"{flag}: give {net.dims} sides, as in --patch_size {example}")
    if math.prod(patch_size) > LARGEST:
        raise UserError(
            f"{flag}: a patch may have at most {LARGEST} voxels, more do not fit into memory; give "
            f"smaller sides"
        )
    fault = _size_fault(net, patch_size, images)
    if not fault:
        return
    if images == 1 and not _size_fault(net, patch_size, images=2):
        fault += " (--labeled_bs sets how many)"
    raise UserError(f"{flag}: {fault}")


def _size_fault(
    net: Network | MeanOfNetworks, patch_size: Sequence[int], images: int
) -> str | None:
    """Why the network cannot take so many images of that size in a pass; None if it can."""
    try:
        net.check_size(tuple(patch_size), images)
    except ValueError as error:
        return str(error)
    return None


def share_batch_norm(nets: Iterable[nn.Module], device: torch.device) -> None:
    """Let batch norm use the statistics of all processes; with one process nothing changes.

    Raises UserError unless `device` is a CUDA device, which `torch.nn.SyncBatchNorm` needs.
    """
    if world() == 1:
        return
    if device.type != "cuda":
        raise UserError(
            f"--sync_batch_norm: needs CUDA, and this run is on {device.type}; remove the flag"
        )
    for net in nets:
        synchronise(net)


def network_of(
    checkpoint: Checkpoint, info: DatasetInfo, model: str, options: Mapping[str, object]
) -> Network | MeanOfNetworks:
    """Build the selected network of a checkpoint, with its weights; where the mean of all learners
    is selected, all of them.

    `model`: the name of the networks whose checkpoint does not name another one. Raises UserError
    as `build_network` and `load_network` do.
    """
    names = [checkpoint.selected]
    if checkpoint.selected == MEAN:
        names = list(checkpoint.models)
    networks: list[Network] = []
    for name in names:
        network = build_network(info, checkpoint.models.get(name) or model, options)
        load_weights(network, _weights(checkpoint, name), checkpoint)
        networks.append(network)
    if len(networks) == 1:
        return networks[0]
    return MeanOfNetworks(networks)


def _weights(checkpoint: Checkpoint, name: str) -> Mapping[str, Tensor]:
    """The weights of one of a checkpoint's networks; a published checkpoint has only one."""
    if not checkpoint.ours:
        return checkpoint.weights
    return checkpoint.weights_of(name)


def load_network(net: nn.Module, checkpoint: Checkpoint) -> None:
    """Load the weights of a checkpoint's selected network.

    Raises UserError where they do not fit.
    """
    load_weights(net, checkpoint.weights, checkpoint)


def load_weights(net: nn.Module, weights: Mapping[str, Tensor], checkpoint: Checkpoint) -> None:
    """Load some of the weights of a checkpoint; raises UserError where they do not fit."""
    try:
        import_state_dict(net, weights)
    except ValueError as error:
        raise UserError(
            f"{checkpoint.path}: {error}; check --model, --egm and the number of classes"
        ) from None
