"""The networks by the name that `--model` takes.

`networks.base.Network` says what a network has besides its layers.
"""

from collections.abc import Mapping
from dataclasses import fields
from importlib import import_module

from networks.base import Network

PLACES = (  # name, module, class
    ("unet", "unet_ega", "UNet"),
    ("VNet", "VNet_la_ega", "VNet"),
    ("VNet_pancreas", "VNet_la_ega", "VNetPancreas"),
)
NETWORKS: dict[str, type[Network]] = {
    name: getattr(import_module(f"networks.{module}"), kind) for name, module, kind in PLACES
}


def build(name: str, in_chns: int, class_num: int, options: Mapping[str, object]) -> Network:
    """The network on the CPU; of `options` it takes those that it has. Raises ValueError for an unknown name."""
    if name not in NETWORKS:
        raise ValueError(f"unknown network '{name}': choose one of {', '.join(NETWORKS)}")
    network = NETWORKS[name]
    names = [field.name for field in fields(network.Options)]
    known_options = {name: options[name] for name in names if name in options}
    return network(in_chns, class_num, **known_options)
