"""From a teacher's logits to a pseudo label, the largest component of each class in every sample."""

from collections.abc import Callable
from functools import cache

from torch import Tensor

from utils.components import Connectivity, largest_component_per_class
from utils.most_probable import most_probable
from utils.transfer import to_device, to_host


def class_pseudo_label(logits: Tensor, connectivity: Connectivity = 8) -> Callable[[], Tensor]:
    """Argmax of logits (N, K, ...), then of every class in every sample its largest component; (N, ...) int64 on the same device.

    Components are found on the host, so the argmax (8 bits a pixel) is only sent there; the call that comes back ends it. Whatever the
    device is asked for in between it does while the host filters. A second call gives the same tensor.

    `connectivity` as published: 8 for ACDC, 26 for LA and CoGRNet, 18 for Pancreas. Of two classes the argmax is what the 3-D methods
    call "softmax of the foreground at least 0.5", but for a voxel with both logits equal, which counts as background here.
    """
    classes, device = logits.shape[1], logits.device
    arrived = to_host(most_probable(logits.transpose(0, 1)))
    return cache(
        lambda: to_device(
            largest_component_per_class(arrived(), classes, connectivity), device
        ).long()
    )
