"""Linear maps along the axes of an image as matrices: a resize or blur of an image is two matrix products.

On CUDA this takes two launches in each direction, and its gradient is deterministic. The gradient of torch's bilinear resize is not,
and its replacement in deterministic mode takes dozens of small operations.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# (1, m, n) and k to (1, m, k): a linear map of the last axis.
Line = Callable[[Tensor, int], Tensor]
LINES: dict[str, Line] = {}


def whole_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Switch autocast off within the context: one-channel maps are cheap in full precision, and rounding would shift edges."""
    if device.type == "meta":
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def both_axes(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Map x (N, C, H, W) along both axes by matrices (H, h) and (W, w) to (N, C, h, w)."""
    return rows.t() @ (x @ columns)


def all_axes(x: Tensor, *matrices: Tensor) -> Tensor:
    """Map x (N, C, D, H, W) along its three axes by matrices (D, d), (H, h) and (W, w) to (N, C, d, h, w)."""
    planes, rows, columns = matrices
    mapped = rows.t() @ (x @ columns)  # (N, C, D, h, w)
    result = planes.t() @ mapped.flatten(3)  # (N, C, d, h w)
    return result.view(*result.shape[:3], *mapped.shape[3:])


def linear_map(name: str) -> Callable[[Line], Line]:
    """Register a linear map under a name for `matrix`."""

    def register(line: Line) -> Line:
        LINES[name] = line
        return line

    return register


def matrix(name: str, old: int, new: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return the matrix (old, new) of a linear map, computed once: x @ matrix maps the last axis of x."""
    if torch.compiler.is_compiling():
        return matrix_for_compiled(name, old, new, device, dtype)
    return _cached_matrix(name, old, new, device, dtype)


@cache
def _cached_matrix(
    name: str, old: int, new: int, device: torch.device, dtype: torch.dtype
) -> Tensor:
    # A tensor made in inference mode cannot be used in training later.
    with torch.inference_mode(False), torch.no_grad():
        identity = torch.eye(old, dtype=torch.float64)[None]
        return LINES[name](identity, new)[0].to(device, dtype)


# In a compiled network this is one small copy; without it every pass would include the dozens of operations that make the matrix.
@torch.library.custom_op("copy_paste::matrix", mutates_args=())
def matrix_for_compiled(
    name: str, old: int, new: int, device: torch.device, dtype: torch.dtype
) -> Tensor:
    return _cached_matrix(name, old, new, device, dtype).clone()


@matrix_for_compiled.register_fake  # pyright: ignore[reportUnknownMemberType]  # not annotated
def _(name: str, old: int, new: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    return torch.empty(old, new, device=device, dtype=dtype)


def spread(line: Tensor) -> Tensor:
    """Insert a zero after each element of the last axis: (1, m, n) to (1, m, 2n)."""
    return torch.stack([line, torch.zeros_like(line)], -1).flatten(-2)


@linear_map("linear")
def _linear_line(line: Tensor, size: int) -> Tensor:
    """Interpolate linearly to `size` elements, ends aligned."""
    return F.interpolate(line, size=size, mode="linear", align_corners=True)


def bilinear(x: Tensor, size: Sequence[int]) -> Tensor:
    """Resize x (N, C, H, W) to `size` bilinearly, corners aligned, as F.interpolate does."""
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    height, width = size
    rows = matrix("linear", x.shape[-2], height, device=x.device, dtype=x.dtype)
    columns = matrix("linear", x.shape[-1], width, device=x.device, dtype=x.dtype)
    return both_axes(x, rows, columns)


def trilinear(x: Tensor, size: Sequence[int]) -> Tensor:
    """Resize x (N, C, D, H, W) to `size` trilinearly, corners aligned, as F.interpolate does."""
    matrices: list[Tensor] = []
    for old, new in zip(x.shape[-3:], size, strict=True):
        matrices.append(matrix("linear", old, new, device=x.device, dtype=x.dtype))
    return all_axes(x, *matrices)
