"""Operations of the networks as plain formulas, each of which `networks/fast/` may replace by a
faster equivalent.

A network calls these functions. Without `networks/fast/`, or within `plain_formulas()`, they
compute the formulas written here. Notation: x a feature map (N, C, ...) of two or three spatial
axes, p = sigmoid(x).
"""

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, ClassVar, Generic, Literal, ParamSpec, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EGM = Literal["published", "corrected", "none"]

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class Operation(Generic[Arguments, Result]):
    """A plain formula and the function that replaces it, if there is one."""

    all: ClassVar[dict[str, "Operation[..., Any]"]] = {}

    def __init__(self, formula: Callable[Arguments, Result]) -> None:
        self.formula = formula
        self.fast: Callable[Arguments, Result] | None = None
        self.uses_fast = True
        Operation.all[formula.__name__] = self

    def __call__(self, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        if self.fast is not None and self.uses_fast:
            return self.fast(*args, **kwargs)
        return self.formula(*args, **kwargs)

    def replace_by(self, fast: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        """Decorate the function that computes the same as the formula, faster."""
        self.fast = fast
        return fast


@contextmanager
def plain_formulas(*names: str) -> Generator[None, None, None]:
    """Compute the plain formulas of the operations with these names within the context; without
    names, of all operations.
    """
    operations = [Operation.all[name] for name in names or Operation.all]
    for operation in operations:
        operation.uses_fast = False
    try:
        yield
    finally:
        for operation in operations:
            operation.uses_fast = True


def whole_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Switch autocast off within the context: one-channel maps are cheap in full precision, and
    rounding would shift edges.
    """
    if device.type == "meta":
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


# resizing


@Operation
def resize_bilinear(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """Resize x (N, C, H, W) to `size` bilinearly, corners aligned."""
    return F.interpolate(x, size=size, mode="bilinear", align_corners=True)


@Operation
def resize_trilinear(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """Resize x (N, C, D, H, W) to `size` trilinearly, corners aligned."""
    return F.interpolate(x, size=size, mode="trilinear", align_corners=True)


def resize_nearest(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """Resize x (N, C, ...) to `size` as `F.interpolate` does in its mode nearest.

    The indices are written out, because ONNX rounds those of its own resize differently.
    """
    for axis, side in enumerate(size, start=2):
        ratio = x.shape[axis] / side
        indices = torch.arange(side, dtype=torch.float32, device=x.device) * ratio
        x = x.index_select(axis, indices.floor().long())
    return x


# the edge-guided module


@Operation
def mean_sigmoid(x: Tensor) -> Tensor:
    """Return the mean of p over the channels, (N, 1, ...), in float32 or wider."""
    precision = torch.promote_types(x.dtype, torch.float32)
    return torch.sigmoid(x).mean(1, keepdim=True, dtype=precision)


@Operation
def smooth_part_2d(g: Tensor, variant: EGM) -> Tensor:
    """Return the smooth part of g (N, 1, H, W): blurred, every second pixel, zeros inserted,
    blurred with gain 4.

    `published` blurs without padding and resizes the smaller result to the size of g (nearest), so
    it is shifted and scaled relative to g. `corrected` pads by reflection before each blur, so that
    every pixel of the result is aligned with g.
    """
    line = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], dtype=g.dtype, device=g.device) / 16
    kernel = torch.outer(line, line)[None, None]
    if variant == "corrected":
        g_padded = F.pad(g, (2, 2, 2, 2), "reflect")
        enlarged = _insert_zeros(F.conv2d(g_padded, kernel)[..., ::2, ::2])
        smooth = F.conv2d(F.pad(enlarged, (2, 2, 2, 2), "reflect"), 4 * kernel)
        return smooth[..., : g.shape[2], : g.shape[3]]
    enlarged = _insert_zeros(F.conv2d(g, kernel)[..., ::2, ::2])
    return resize_nearest(F.conv2d(enlarged, 4 * kernel), tuple(g.shape[2:]))


@Operation
def smooth_part_3d(g: Tensor, variant: EGM) -> Tensor:
    """Return the smooth part of g (N, 1, D, H, W): blurred by a Gaussian (3 voxels, sigma 1.5),
    every second voxel, enlarged, blurred.

    `published` puts the subsampled volume into the first octant of a zero volume of twice its size
    (gain 4). `corrected` inserts zeros between its voxels instead (gain 8).
    """
    line = torch.exp(-(torch.arange(-1.0, 2.0) ** 2) / (2 * 1.5**2)).to(g)
    kernel = torch.einsum("i,j,k->ijk", line, line, line)[None, None]
    kernel = kernel / kernel.sum()
    small = F.conv3d(g, kernel, padding=1)[..., ::2, ::2, ::2]
    depth, height, width = g.shape[2:]
    if variant == "corrected":
        smooth = F.conv3d(_insert_zeros(small), 8 * kernel, padding=1)
        return smooth[..., :depth, :height, :width]
    octant = F.pad(small, (0, small.shape[4], 0, small.shape[3], 0, small.shape[2]))
    smooth = F.conv3d(octant, 4 * kernel, padding=1)
    if smooth.shape == g.shape:
        return smooth
    return F.interpolate(smooth, size=g.shape[2:], mode="nearest")


def _insert_zeros(x: Tensor) -> Tensor:
    """Insert a zero after each element of every spatial axis: (N, C, ...) to twice the sides."""
    enlarged = x.new_zeros(*x.shape[:2], *[2 * side for side in x.shape[2:]])
    every_second = tuple(slice(None, None, 2) for _ in x.shape[2:])
    enlarged[(slice(None), slice(None), *every_second)] = x
    return enlarged


@Operation
def guided_features(x: Tensor, smooth: Tensor, edge: Tensor) -> Tensor:
    """Return background, boundary and edges of x in one tensor (N, 3C, ...): x (1 - p), x
    (p - smooth) and x edge.

    `smooth` and `edge` are (N, 1, ...).
    """
    p = torch.sigmoid(x)
    return torch.cat([x * (1 - p), x * (p - smooth), x * edge], 1)


@Operation
def guided_features_3d(
    x: Tensor, smooth: Tensor, edge: Tensor, conv_adjust: nn.Conv3d, adjust: nn.Conv3d | None
) -> Tensor:
    """Return what `guided_features` does for an edge map (N, 1, d, h, w) that convolutions turn
    into C channels.

    `conv_adjust` (1 to 128 channels) acts on the edge map, which is then resized to x (nearest);
    `adjust` (128 to C channels) follows.
    """
    edges = F.interpolate(conv_adjust(edge), size=x.shape[2:], mode="nearest")
    if adjust is not None:
        edges = adjust(edges)
    return guided_features.formula(x, smooth, edges)


# attention


@Operation
def pool_pixels(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and maximum of every channel over all pixels, (N, C) each; pixels with equal
    maxima share the gradient.
    """
    spatial = tuple(range(2, x.ndim))
    return x.mean(spatial), x.amax(spatial)


@Operation
def pool_channels(x: Tensor) -> Tensor:
    """Return maximum and mean over the channels of every pixel, (N, 2, ...); the first of equal
    channels gets the gradient.
    """
    return torch.stack([x.max(1).values, x.mean(1)], 1)


@Operation
def convolve_to_one_channel(x: Tensor, conv: nn.Conv2d | nn.Conv3d) -> Tensor:
    """Return `conv(x)` for a convolution to one channel with "same" padding."""
    return conv(x)


@Operation
def scale_pixels(x: Tensor, weights: Tensor) -> Tensor:
    """Return x (N, C, ...) times one weight per pixel (N, 1, ...)."""
    return x * weights


@Operation
def dropout(x: Tensor, rate: float) -> Tensor:
    """Set elements to zero with probability `rate`, and divide the others by 1 - `rate`."""
    return F.dropout(x, rate, training=True)


class Dropout(nn.Dropout):
    """`nn.Dropout`, computed by `dropout`."""

    def forward(self, input: Tensor) -> Tensor:
        if self.training and self.p > 0:
            return dropout(input, self.p)
        return input
