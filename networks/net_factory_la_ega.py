"""3-D networks by name."""

from typing import get_args

from torch import nn

from networks.egm import EGM
from networks.registry import NETWORKS


def net_factory(
    net_type: str = "VNet",
    in_chns: int = 1,
    class_num: int = 2,
    mode: str = "train",
    egm: EGM = "published",
) -> nn.Module:
    """Build a 3-D network on the CPU; the caller moves it.

    `mode` "test" leaves out the V-Net's own dropouts, as the published factory does; in eval mode it makes no difference.
    Raises ValueError for an unknown `net_type`, `mode` or `egm`.
    """
    names = [name for name, network in NETWORKS.items() if network.dims == 3]
    if net_type not in names:
        raise ValueError(f"unknown 3-D network '{net_type}': choose one of {', '.join(names)}")
    if mode not in ("train", "test"):
        raise ValueError(f"unknown mode '{mode}': choose train or test")
    if egm not in get_args(EGM):
        raise ValueError(f"unknown egm '{egm}': choose one of {', '.join(get_args(EGM))}")
    return NETWORKS[net_type](in_chns, class_num, egm, has_dropout=mode == "train")
