"""2-D networks by name."""

from typing import get_args

from torch import nn

from networks.egm import EGM
from networks.unet_ega import UNet, Upsampling


def net_factory(
    net_type: str = "unet",
    in_chns: int = 1,
    class_num: int = 4,
    egm: EGM = "published",
    upsampling: Upsampling = "published",
) -> nn.Module:
    """Build a 2-D network on the CPU; the caller moves it. Raises ValueError for an unknown `net_type`, `egm` or `upsampling`."""
    if net_type != "unet":
        raise ValueError(f"unknown 2-D network '{net_type}': the only one is 'unet'")
    if egm not in get_args(EGM):
        raise ValueError(f"unknown egm '{egm}': choose one of {', '.join(get_args(EGM))}")
    if upsampling not in get_args(Upsampling):
        raise ValueError(
            f"unknown upsampling '{upsampling}': choose one of {', '.join(get_args(Upsampling))}"
        )
    return UNet(in_chns, class_num, egm, upsampling)
