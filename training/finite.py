"""No checkpoint of a state that is lost."""

from collections.abc import Iterator

import torch
from torch import Tensor

from utils.errors import UserError


def check_finite(content: dict, when: str) -> None:
    """Raise UserError if a tensor in `content`, however deep, holds a number that is not finite; the device is waited for once.

    A loss tells that too, but a step late: it is computed before the weights that its own gradients spoil.
    """
    tensors = [tensor for tensor in _tensors(content) if tensor.is_floating_point() and tensor.numel()]
    if not tensors:
        return
    # a sum is finite only where all its terms are, but may overflow where they are: then each number is looked at
    total = torch.stack([tensor.sum(dtype=torch.float32).reshape(()) for tensor in tensors])
    if not total.isfinite().all() and not all(bool(tensor.isfinite().all()) for tensor in tensors):
        raise UserError(
            f"weights or the optimiser's moments are no longer finite {when}: "
            "lower --base_lr, with another --exp; the last checkpoint is kept"
        )


def _tensors(value) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
