"""From a teacher's logits to a pseudo label."""

import torch
from torch import Tensor

from utils.components import largest_component_per_class


def class_pseudo_label(logits: Tensor, connectivity: int = 8) -> Tensor:
    """Argmax of logits (N, K, H, W), then of every class in every sample its largest component; (N, H, W) int64 on the same device."""
    labels = logits.argmax(1).to(torch.uint8).cpu().numpy()
    kept = largest_component_per_class(labels, logits.shape[1], connectivity)
    return torch.from_numpy(kept).to(logits.device, torch.int64)
