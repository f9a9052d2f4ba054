"""Pseudo labels from a teacher's logits: the largest component of each class in every sample."""

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor

from utils.label_maps import Connectivity, largest_component_per_class, most_probable


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


def copy_all(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Copy each source into the target at its place, in one operation."""
    torch._foreach_copy_(targets, sources)  # pyright: ignore  # torch has no public name for it


def to_host(tensor: Tensor) -> Callable[[], np.ndarray]:
    """Start a copy to the CPU; the returned function waits for it and returns the array.

    With CUDA the copy goes to pinned memory. It runs after the work that the device has already
    received, and does not block the work that follows.
    """
    if tensor.device.type != "cuda":
        return tensor.cpu().numpy
    copy = tensor.to("cpu", non_blocking=True)  # torch pins the memory of such a copy itself
    done = torch.cuda.Event()
    done.record()

    def wait() -> np.ndarray:
        done.synchronize()
        return copy.numpy()

    return wait


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """Copy an array to the device; with CUDA the call returns before the copy has ended."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
