"""Copies between the device and the CPU that do not block, and copies of many tensors."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor


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
