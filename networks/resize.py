"""Linear maps along the rows and columns of an image as matrices: a resize or blur is two matrix products.

On CUDA this takes two launches either way, and its gradient is deterministic; that of torch's bilinear resize is not, and its substitute in
deterministic mode takes dozens of small operations.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Line = Callable[
    [Tensor, int], Tensor
]  # (1, m, n) and k to (1, m, k): a linear map of the last axis
LINES: dict[str, Line] = {}


def whole_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Within it autocast, if on, computes as it is told: maps of a few values a pixel are cheap, and rounded ones shift edges."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def both_axes(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """x (N, C, H, W) mapped along both axes, by matrices (H, h) and (W, w), to (N, C, h, w)."""
    return rows.t() @ (x @ columns)


def all_axes(x: Tensor, *matrices: Tensor) -> Tensor:
    """x (N, 1, D, H, W) mapped along its three axes, by matrices (D, d), (H, h) and (W, w), to (N, 1, d, h, w)."""
    planes, rows, columns = matrices
    mapped = rows.t() @ (x @ columns)  # (N, 1, D, h, w)
    result = planes.t() @ mapped.flatten(3)  # (N, 1, d, h w)
    return result.view(*result.shape[:3], *mapped.shape[3:])


def linear_map(name: str) -> Callable[[Line], Line]:
    """Makes a linear map known to `matrix` by its name."""

    def known(line: Line) -> Line:
        LINES[name] = line
        return line

    return known


def matrix(name: str, old: int, new: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The matrix (old, new) of a linear map, made once: x @ matrix is the map of the last axis of x."""
    if torch.compiler.is_compiling():
        return matrix_for_compiled(name, old, new, device, dtype)
    return _made(name, old, new, device, dtype)


@cache
def _made(name: str, old: int, new: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    with (
        torch.inference_mode(False),
        torch.no_grad(),
    ):  # a tensor made in inference mode could not be trained with later
        return LINES[name](torch.eye(old, dtype=torch.float64)[None], new)[0].to(device, dtype)


# One small copy in a compiled network, which would write how the matrix is made, dozens of operations, into every pass.
@torch.library.custom_op("copy_paste::matrix", mutates_args=())
def matrix_for_compiled(
    name: str, old: int, new: int, device: torch.device, dtype: torch.dtype
) -> Tensor:
    return _made(name, old, new, device, dtype).clone()


@matrix_for_compiled.register_fake  # pyright: ignore[reportUnknownMemberType]  # not annotated
def _(name: str, old: int, new: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    return torch.empty(old, new, device=device, dtype=dtype)


def spread(line: Tensor) -> Tensor:
    """The last axis of (1, m, n) with a zero behind each place, (1, m, 2n)."""
    return torch.stack([line, torch.zeros_like(line)], -1).flatten(-2)


@linear_map("bilinear")
def _bilinear_line(line: Tensor, size: int) -> Tensor:
    """Linear interpolation to `size` places, the ends aligned."""
    return F.interpolate(line, size=size, mode="linear", align_corners=True)


def bilinear(x: Tensor, size: Sequence[int]) -> Tensor:
    """x (N, C, H, W) resized to `size`, corners aligned, as F.interpolate does."""
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    height, width = size
    rows = matrix("bilinear", x.shape[-2], height, device=x.device, dtype=x.dtype)
    columns = matrix("bilinear", x.shape[-1], width, device=x.device, dtype=x.dtype)
    return both_axes(x, rows, columns)
