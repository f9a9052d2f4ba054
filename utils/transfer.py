"""Between the device and the host without waiting where there is something to do meanwhile."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor


def to_host(tensor: Tensor) -> Callable[[], np.ndarray]:
    """Start the way to the host; the call that comes back waits for it to end. With CUDA the copy goes into pinned memory, behind what the
    device has been asked for so far, and the device goes on with what it is asked for afterwards."""
    if tensor.device.type != "cuda":
        return tensor.cpu().numpy
    copy = tensor.to("cpu", non_blocking=True)  # torch pins the memory of such a copy itself
    done = torch.cuda.Event()
    done.record()

    def arrived() -> np.ndarray:
        done.synchronize()
        return copy.numpy()

    return arrived


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """An array on the device; with CUDA the host does not wait for it."""
    tensor = torch.from_numpy(array)
    return (
        tensor.pin_memory().to(device, non_blocking=True)
        if device.type == "cuda"
        else tensor.to(device)
    )
