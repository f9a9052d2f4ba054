"""Linear maps along the axes of an image as matrices: a resize or a blur is one matrix product per
axis.

Replaces `smooth_part_2d`, `smooth_part_3d`, `resize_bilinear` and `resize_trilinear`
(tests/test_fast_operations.py compares them). On CUDA such a map takes two launches in each
direction, and its gradient is deterministic, which that of torch's resizes is not; torch's
replacement in deterministic mode takes dozens of small operations.
"""

import math
from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from networks import operations
from networks.operations import EGM

# (1, m, n) and k to (1, m, k): a linear map of the last axis.
Line = Callable[[Tensor, int], Tensor]
LINES: dict[str, Line] = {}


def both_axes(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Map x (N, C, H, W) along both axes by matrices (H, h) and (W, w) to (N, C, h, w)."""
    return rows.t() @ (x @ columns)


def all_axes(x: Tensor, *matrices: Tensor) -> Tensor:
    """Map x (N, C, D, H, W) along its three axes by matrices (D, d), (H, h) and (W, w) to
    (N, C, d, h, w).
    """
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
    """Return the matrix (old, new) of a linear map, computed once: x @ matrix maps the last axis of
    x.
    """
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


# In a compiled network this is one small copy; without it every pass would include the dozens of
# operations that make the matrix.
@torch.library.custom_op("copy_paste::matrix", mutates_args=())
def matrix_for_compiled(
    name: str, old: int, new: int, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """Return a copy of `matrix`, as one operation of a compiled network."""
    return _cached_matrix(name, old, new, device, dtype).clone()


@matrix_for_compiled.register_fake  # pyright: ignore[reportUnknownMemberType]  # not annotated
def _(name: str, old: int, new: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    return torch.empty(old, new, device=device, dtype=dtype)


def _spread(line: Tensor) -> Tensor:
    """Insert a zero after each element of the last axis: (1, m, n) to (1, m, 2n)."""
    return torch.stack([line, torch.zeros_like(line)], -1).flatten(-2)


# resizing


@linear_map("linear")
def _linear_line(line: Tensor, size: int) -> Tensor:
    """Interpolate linearly to `size` elements, ends aligned."""
    return F.interpolate(line, size=size, mode="linear", align_corners=True)


@operations.resize_bilinear.replace_by
def resize_bilinear(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """Resize x (N, C, H, W) by matrices, but feature maps on the CPU by torch, which is faster
    there.
    """
    if tuple(x.shape[2:]) == size:
        return x
    if x.is_cpu and x.shape[1] > 1:
        return operations.resize_bilinear.formula(x, size)
    height, width = size
    rows = matrix("linear", x.shape[2], height, device=x.device, dtype=x.dtype)
    columns = matrix("linear", x.shape[3], width, device=x.device, dtype=x.dtype)
    return both_axes(x, rows, columns)


@operations.resize_trilinear.replace_by
def resize_trilinear(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """Resize x (N, C, D, H, W) by matrices, but on the CPU by torch, which is faster there."""
    if x.is_cpu:
        return operations.resize_trilinear.formula(x, size)
    matrices: list[Tensor] = []
    for old, new in zip(x.shape[2:], size, strict=True):
        matrices.append(matrix("linear", old, new, device=x.device, dtype=x.dtype))
    return all_axes(x, *matrices)


# the smooth part of the Laplacian band: blur, subsampling, insertion of zeros, blur and resize are
# linear and separable


def _binomial_blur(line: Tensor) -> Tensor:
    """Blur the last axis without padding, (1, m, n) to (1, m, n - 4)."""
    n = line.shape[-1] - 4
    total = line[..., :n]
    for tap, weight in enumerate((4, 6, 4, 1), start=1):
        total = total + weight * line[..., tap : tap + n]
    return total / 16


@linear_map("published 2-D")
def _published_line(line: Tensor, size: int) -> Tensor:
    small = _binomial_blur(line)[..., ::2]
    smooth = 2 * _binomial_blur(_spread(small))
    return F.interpolate(smooth, size=size, mode="nearest")


@linear_map("corrected 2-D")
def _corrected_line(line: Tensor, size: int) -> Tensor:
    small = _binomial_blur(F.pad(line, (2, 2), "reflect"))[..., ::2]
    return 2 * _binomial_blur(F.pad(_spread(small), (2, 2), "reflect"))[..., :size]


def _gaussian_blur(line: Tensor) -> Tensor:
    """Blur the last axis of (1, m, n) with a Gaussian kernel of size 3
    (sigma 1.5, normalised, zero padding).
    """
    side = math.exp(-1 / (2 * 1.5**2))
    padded = F.pad(line, (1, 1))
    neighbours = padded[..., :-2] + padded[..., 2:]
    return (padded[..., 1:-1] + side * neighbours) / (1 + 2 * side)


@linear_map("published 3-D")
def _published_line_3d(line: Tensor, size: int) -> Tensor:
    small = _gaussian_blur(line)[..., ::2]
    smooth = 4 ** (1 / 3) * _gaussian_blur(F.pad(small, (0, small.shape[-1])))
    if smooth.shape == line.shape:
        return smooth
    return F.interpolate(smooth, size=size, mode="nearest")


@linear_map("corrected 3-D")
def _corrected_line_3d(line: Tensor, size: int) -> Tensor:
    small = _gaussian_blur(line)[..., ::2]
    return 2 * _gaussian_blur(_spread(small))[..., :size]


@operations.smooth_part_2d.replace_by
def smooth_part_2d(g: Tensor, variant: EGM) -> Tensor:
    """Apply the smooth part to g (N, 1, H, W) by one matrix per axis."""
    height, width = g.shape[2:]
    rows = matrix(f"{variant} 2-D", height, height, device=g.device, dtype=g.dtype)
    columns = matrix(f"{variant} 2-D", width, width, device=g.device, dtype=g.dtype)
    return both_axes(g, rows, columns)


@operations.smooth_part_3d.replace_by
def smooth_part_3d(g: Tensor, variant: EGM) -> Tensor:
    """Apply the smooth part to g (N, 1, D, H, W) by one matrix per axis."""
    name = f"{variant} 3-D"
    sides = g.shape[2:]
    matrices = [matrix(name, side, side, device=g.device, dtype=g.dtype) for side in sides]
    return all_axes(g, *matrices)
