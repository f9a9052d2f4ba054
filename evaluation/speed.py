"""The options that make predictions faster: precision, and the form of the network."""

from typing import Literal

Amp = Literal["auto", "off", "bf16", "fp16"]
"""Precision of a network: `training.device.autocast_type` has the type of each."""
Accelerate = Literal["off", "fold", "compile"]
"""Form of a network that only predicts: `commands.fast_networks.fast_network` makes it."""
AccelerateFlag = Literal["auto", "off", "fold", "compile"]


def accelerate_of(flag: AccelerateFlag) -> Accelerate:
    """Return what --accelerate stands for: auto folds, which takes no time and works everywhere."""
    if flag == "auto":
        return "fold"
    return flag
