"""The networks by the name that `--model` takes.

`networks.base.Network` is the interface of a network.
"""

from collections.abc import Mapping
from dataclasses import fields
from importlib import import_module
from typing import Literal, get_args, get_origin, get_type_hints

from networks.base import Network

PLACES = (  # name, module, class
    ("unet", "unet_ega", "UNet"),
    ("VNet", "VNet_la_ega", "VNet"),
    ("VNet_pancreas", "VNet_la_ega", "VNetPancreas"),
    ("unet_mcnet", "mcnet", "UNetMCNet"),
    ("VNet_mcnet", "mcnet", "VNetMCNet"),
    ("resunet", "resunet", "ResUNet"),
    ("unet_dtc", "dtc", "UNetDTC"),
    ("VNet_dtc", "dtc", "VNetDTC"),
    ("unet_urpc", "urpc", "UNetURPC"),
    ("VNet_urpc", "urpc", "VNetURPC"),
    ("unet_unimatch", "unimatch", "UNetUniMatch"),
    ("VNet_unimatch", "unimatch", "VNetUniMatch"),
)
NETWORKS: dict[str, type[Network]] = {
    name: getattr(import_module(f"networks.{module}"), kind) for name, module, kind in PLACES
}


def build(
    name: str, in_chns: int, class_num: int, options: Mapping[str, object], **internal: object
) -> Network:
    """Build a network on the CPU.

    `options` may hold all settings of a run; only the network's own options are used. `internal`:
    arguments of the network that are not options. Raises ValueError for an unknown network, and for
    a value that an option cannot have.
    """
    if name not in NETWORKS:
        raise ValueError(f"unknown network '{name}': choose one of {', '.join(NETWORKS)}")
    network = NETWORKS[name]
    return network(in_chns, class_num, **network_options(name, options), **internal)


def network_options(name: str, options: Mapping[str, object]) -> dict[str, object]:
    """Return those of `options` that the network has; raise ValueError for a value outside of an
    option's choices.
    """
    declared = NETWORKS[name].Options
    kinds = get_type_hints(declared)
    chosen: dict[str, object] = {}
    for field in fields(declared):
        if field.name not in options:
            continue
        value = options[field.name]
        kind = kinds[field.name]
        if get_origin(kind) is Literal and value not in get_args(kind):
            choices = ", ".join(map(str, get_args(kind)))
            raise ValueError(f"unknown {field.name} '{value}': choose one of {choices}")
        chosen[field.name] = value
    return chosen


def build_of_dims(
    dims: int,
    name: str,
    in_chns: int,
    class_num: int,
    options: Mapping[str, object],
    **internal: object,
) -> Network:
    """Build a network for images of `dims` axes, as the published factories do.

    Raises ValueError as `build` does and for a network for other images, and TypeError for an
    option that the network does not have.
    """
    names = [other for other, network in NETWORKS.items() if network.dims == dims]
    if name not in names:
        raise ValueError(f"unknown {dims}-D network '{name}': choose one of {', '.join(names)}")
    unknown = options.keys() - {field.name for field in fields(NETWORKS[name].Options)}
    if unknown:
        raise TypeError(f"network '{name}' has no option '{min(unknown)}'")
    return build(name, in_chns, class_num, options, **internal)
