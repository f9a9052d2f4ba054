"""From a teacher's logits to a pseudo label, the largest component of each class in every sample."""

import torch
from torch import Tensor

from utils.components import largest_component_per_class


def class_pseudo_label(logits: Tensor, connectivity: int = 8) -> Tensor:
    """Argmax of logits (N, K, ...), then of every class in every sample its largest component; (N, ...) int64 on the same device.

    `connectivity` as published: 8 for ACDC, 26 for LA and CoGRNet, 18 for Pancreas. Of two classes the argmax is what the 3-D methods
    call "softmax of the foreground at least 0.5", but for a voxel with both logits equal, which counts as background here.
    """
    labels = logits.argmax(1).to(torch.uint8).cpu().numpy()
    kept = largest_component_per_class(labels, logits.shape[1], connectivity)
    return torch.from_numpy(kept).to(logits.device, torch.int64)
