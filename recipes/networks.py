"""Networks from settings, and weights from checkpoints."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import nn

from dataloaders.facts import DatasetFacts
from networks import net_factory_ega, net_factory_la_ega
from networks.published import import_state_dict
from networks.unet_ega import UNet
from networks.VNet_la_ega import VNet
from training.checkpoint import is_ours
from utils.errors import UserError


def build_network(facts: DatasetFacts, model: str, egm: str, upsampling: str = "published") -> nn.Module:
    """The network on the CPU; raises UserError for an unknown name. `upsampling` is the 2-D networks'."""
    shape = {"in_chns": facts.channels, "class_num": facts.classes, "egm": egm}
    try:
        if facts.dims == 3:
            return net_factory_la_ega.net_factory(model, **shape)
        return net_factory_ega.net_factory(model, **shape, upsampling=upsampling)
    except ValueError as error:
        raise UserError(f"--model {model}: {error}") from None


def check_patch(facts: DatasetFacts, patch_size: tuple[int, ...], egm: str) -> None:
    """Raise UserError where the network cannot take the patch."""
    given = f"--patch_size {' '.join(map(str, patch_size))}"
    if len(patch_size) != facts.dims:
        raise UserError(f"{given}: give {facts.dims} sides, as in --patch_size {' '.join(['96'] * facts.dims)}")
    try:
        if facts.dims == 3:
            VNet.check_size(patch_size)
        else:
            UNet.check_size(patch_size, egm)
    except ValueError as error:
        raise UserError(f"{given}: {error}") from None


def check_stride(stride: Sequence[int], flag: str) -> None:
    """Raise UserError unless `stride` moves a sliding window along three axes."""
    if len(stride) != 3 or min(stride) < 1:
        raise UserError(f"--{flag} {' '.join(map(str, stride))}: give three steps of at least 1, as in --{flag} 18 18 4")


def load_network(net: nn.Module, content: Mapping, path: Path) -> None:
    """The (student) weights of a checkpoint of ours, or of a published one, into a network; raises UserError where they do not fit."""
    try:
        import_state_dict(net, content["student"] if is_ours(content) else content)
    except ValueError as error:
        raise UserError(f"{path}: {error}; is it for another network, --egm or number of classes?") from None
