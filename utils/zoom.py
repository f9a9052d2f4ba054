"""Nearest-neighbour resizing of slices, exact to scipy and much faster."""

from functools import lru_cache

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor


@lru_cache(maxsize=4096)
def _nearest_indices(size: int, new_size: int) -> np.ndarray:
    """Which of `size` pixels each of `new_size` takes in scipy.ndimage.zoom(order=0).

    -1: none. For some sizes (216 to 256, which ACDC has) scipy's rounding puts the last coordinate outside and fills in 0;
    published networks were trained on and tested with that.
    """
    return ndimage.zoom(np.arange(1, size + 1), new_size / size, order=0) - 1


def zoom_nearest(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The last two axes (..., H, W) resized to `size` exactly as scipy.ndimage.zoom(order=0) does it, by picking rows and columns."""
    rows, columns = (
        _nearest_indices(old, new) for old, new in zip(array.shape[-2:], size, strict=True)
    )
    zoomed = array[..., rows[:, None], columns]
    zoomed[..., rows < 0, :] = 0
    zoomed[..., columns < 0] = 0
    return zoomed


def zoom_nearest_on_device(tensor: Tensor, size: tuple[int, int]) -> Tensor:
    """`zoom_nearest` of a tensor (..., H, W), where it is."""
    for axis, new in zip((-2, -1), size, strict=True):
        picks, filled = _picks_on_device(tensor.shape[axis], new, tensor.device)
        tensor = tensor.index_select(axis, picks)
        if filled is not None:
            tensor = tensor * filled.to(tensor.dtype).unflatten(0, (-1,) + (1,) * (-1 - axis))
    return tensor


@lru_cache(maxsize=4096)
def _picks_on_device(
    size: int, new_size: int, device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """`_nearest_indices` as a tensor, and where they pick something; None where they do everywhere."""
    indices = _nearest_indices(size, new_size)
    filled = None if indices.min() >= 0 else torch.from_numpy(indices >= 0).to(device)
    return torch.from_numpy(indices.clip(0)).to(device), filled
