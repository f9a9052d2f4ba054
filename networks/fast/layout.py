"""What the fast operations have in common: which layout a map has, and when torch is slow on the CPU."""

import torch
from torch import Tensor

from networks import operations


def is_eager_cpu(x: Tensor) -> bool:
    """Whether operations run one by one on the CPU, neither compiled nor on another device."""
    return x.is_cpu and not torch.compiler.is_compiling()


def layout_of(x: Tensor) -> torch.memory_format:
    channels_last = torch.channels_last_3d
    if x.ndim == 4:
        channels_last = torch.channels_last
    if x.is_contiguous(memory_format=channels_last):
        return channels_last
    return torch.contiguous_format


def is_half_on_cpu(x: Tensor) -> bool:
    """Whether operations run one by one on the CPU in 16 bits.

    There a feature in channels-last layout times a map of one channel takes 7 times as long as a feature times a feature.
    """
    return is_eager_cpu(x) and x.element_size() == 2


def as_wide(one: Tensor, x: Tensor) -> Tensor:
    """Return a map (N, 1, ...) that x (N, C, ...) will be multiplied by, repeated for each channel if that is faster."""
    if is_half_on_cpu(x):
        return one.expand_as(x).contiguous(memory_format=layout_of(x))
    return one


@operations.scale_pixels.replace_by
def scale_pixels(x: Tensor, weights: Tensor) -> Tensor:
    """Multiply x by a map of one channel, repeated for each channel in 16 bits on the CPU."""
    return x * as_wide(weights, x)
