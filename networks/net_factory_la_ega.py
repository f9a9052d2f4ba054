"""3-D networks by name: the published factory, over the registry."""

from networks.base import Network
from networks.registry import build_of_dims


def net_factory(
    net_type: str = "VNet",
    in_chns: int = 1,
    class_num: int = 2,
    mode: str = "train",
    **options: object,
) -> Network:
    """Build a 3-D network on the CPU; the caller moves it.

    `mode` "test" omits the V-Net's own dropouts, as the published factory does; in eval mode it
    makes no difference. `options`: the network's own, such as `egm`. Raises ValueError for an
    unknown network, mode or value, and TypeError for an option that the network does not have.
    """
    if mode == "train":
        return build_of_dims(3, net_type, in_chns, class_num, options)
    if mode == "test":
        return build_of_dims(3, net_type, in_chns, class_num, options, has_dropout=False)
    raise ValueError(f"unknown mode '{mode}': choose train or test")
