"""Networks from settings, and weights from checkpoints."""

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from dataloaders.facts import DatasetFacts
from networks.net_factory_ega import net_factory
from networks.published import import_state_dict
from networks.unet_ega import UNet
from training.checkpoint import is_ours
from utils.errors import UserError


def build_network(facts: DatasetFacts, model: str, egm: str, upsampling: str = "published") -> nn.Module:
    """The network on the CPU; raises UserError for an unknown name."""
    try:
        return net_factory(model, in_chns=facts.channels, class_num=facts.classes, egm=egm, upsampling=upsampling)
    except ValueError as error:
        raise UserError(f"--model {model}: {error}") from None


def check_patch(patch_size: tuple[int, ...], egm: str) -> None:
    """Raise UserError where the network cannot take the patch."""
    if len(patch_size) != 2:
        raise UserError(f"--patch_size {' '.join(map(str, patch_size))}: give two sides, as in --patch_size 256 256")
    try:
        UNet.check_size(patch_size, egm)
    except ValueError as error:
        raise UserError(f"--patch_size {' '.join(map(str, patch_size))}: {error}") from None


def load_network(net: nn.Module, content: Mapping, path: Path) -> None:
    """The (student) weights of a checkpoint of ours, or of a published one, into a network; raises UserError where they do not fit."""
    try:
        import_state_dict(net, content["student"] if is_ours(content) else content)
    except ValueError as error:
        raise UserError(f"{path}: {error}; is it for another network, --egm or number of classes?") from None
