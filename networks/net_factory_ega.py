"""2-D networks by name: the published factory, over the registry."""

from networks.base import Network
from networks.registry import build_of_dims


def net_factory(
    net_type: str = "unet", in_chns: int = 1, class_num: int = 4, **options: object
) -> Network:
    """Build a 2-D network on the CPU; the caller moves it.

    `options`: the network's own, such as `egm` and `upsampling` of the U-Net. Raises ValueError for
    an unknown network or value, and TypeError for an option that the network does not have.
    """
    return build_of_dims(2, net_type, in_chns, class_num, options)
