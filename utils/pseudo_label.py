"""Pseudo labels from a teacher's logits: the largest component of each class in every sample."""

from collections.abc import Callable
from functools import cache

from torch import Tensor

from utils.components import Connectivity, largest_component_per_class
from utils.most_probable import most_probable
from utils.transfer import to_device, to_host


def class_pseudo_label(logits: Tensor, connectivity: Connectivity = 8) -> Callable[[], Tensor]:
    """Start the pseudo label of logits (N, K, ...).

    The returned function gives it as (N, ...) int64 on the same device.

    The pseudo label is the argmax, of which each sample keeps the largest component of each class.
    Components are found on the CPU: this function only starts the copy of the argmax (one byte per
    pixel), and the returned function does the rest. Work that the device receives in between runs
    in parallel. Calling the returned function again gives the same tensor.

    `connectivity` as published: 8 for ACDC, 26 for LA and CoGRNet, 18 for Pancreas. With two
    classes the argmax equals the published 3-D rule "softmax of the foreground at least 0.5",
    except where both logits are equal: such a voxel is background here.
    """
    classes = logits.shape[1]
    device = logits.device
    copied = to_host(most_probable(logits.transpose(0, 1)))

    @cache
    def pseudo_label() -> Tensor:
        kept = largest_component_per_class(copied(), classes, connectivity=connectivity)
        return to_device(kept, device).long()

    return pseudo_label
