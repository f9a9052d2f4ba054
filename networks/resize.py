"""Linear maps along the rows and columns of an image as matrices: a resize or blur is two matrix products.

On CUDA this takes two launches either way, and its gradient is deterministic; that of torch's bilinear resize is not, and its substitute in
deterministic mode takes dozens of small operations.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

Line = Callable[[Tensor], Tensor]  # (1, m, n) to (1, m, k): a linear map of the last axis


def whole_precision(device: torch.device) -> AbstractContextManager:
    """Within it autocast, if on, computes as it is told: maps of a few values a pixel are cheap, and rounded ones shift edges."""
    return torch.autocast(device.type, enabled=False) if torch.amp.is_autocast_available(device.type) else nullcontext()


def both_axes(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """x (N, C, H, W) mapped along both axes, by matrices (H, h) and (W, w), to (N, C, h, w)."""
    return rows.t() @ (x @ columns)


def all_axes(x: Tensor, *matrices: Tensor) -> Tensor:
    """x (N, 1, D, H, W) mapped along its three axes, by matrices (D, d), (H, h) and (W, w), to (N, 1, d, h, w)."""
    planes, rows, columns = matrices
    mapped = rows.t() @ (x @ columns)  # (N, 1, D, h, w)
    return (planes.t() @ mapped.flatten(3)).unflatten(3, mapped.shape[3:])


@cache
def matrix(line: Line, side: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The matrix (side, k) of a linear map, made once: x @ matrix is the map of the last axis of x.

    `line` is a function of a module or a `partial` that is kept, so that it is the same one at the next call.
    """
    with torch.inference_mode(False), torch.no_grad():  # a tensor made in inference mode could not be trained with later
        return line(torch.eye(side, dtype=torch.float64)[None])[0].to(device, dtype)


def spread(line: Tensor) -> Tensor:
    """The last axis of (1, m, n) with a zero behind each place, (1, m, 2n)."""
    return torch.stack([line, torch.zeros_like(line)], -1).flatten(-2)


@cache
def bilinear_line(size: int) -> Line:
    """Linear interpolation to `size` places, the ends aligned."""
    return lambda x: F.interpolate(x, size=size, mode="linear", align_corners=True)


def bilinear(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """x (N, C, H, W) resized to `size`, corners aligned, as F.interpolate does."""
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return both_axes(x, *(matrix(bilinear_line(new), old, x.device, x.dtype) for old, new in zip(x.shape[-2:], size, strict=True)))
