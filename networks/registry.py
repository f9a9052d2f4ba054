"""The networks by the name that `--model` takes.

A network is a class: built from (in_chns, class_num, **options) with the fields of its `Options` (they become flags), it says its
`dims`, its `smallest_batch` (images a pass that its normalisation wants) and, by `check_size(size, images)`, what it cannot take.
"""

from collections.abc import Mapping
from dataclasses import fields
from importlib import import_module

from torch import nn

PLACES = (  # name, module, class
    ("unet", "unet_ega", "UNet"),
    ("VNet", "VNet_la_ega", "VNet"),
    ("VNet_pancreas", "VNet_la_ega", "VNetPancreas"),
)
NETWORKS: dict[str, type[nn.Module]] = {
    name: getattr(import_module(f"networks.{module}"), kind) for name, module, kind in PLACES
}


def build(name: str, in_chns: int, class_num: int, options: Mapping[str, object]) -> nn.Module:
    """The network on the CPU; of `options` it takes those that it has. Raises ValueError for an unknown name."""
    if name not in NETWORKS:
        raise ValueError(f"unknown network '{name}': choose one of {', '.join(NETWORKS)}")
    network = NETWORKS[name]
    own = {
        field.name: options[field.name]
        for field in fields(network.Options)
        if field.name in options
    }
    return network(in_chns, class_num, **own)
