"""The class of each voxel from the networks' scores."""

import torch
from torch import Tensor


def most_probable(scores: Tensor) -> Tensor:
    """Return the class (...) uint8 with the largest of the scores (K, ...), K at least 2.

    Of equal scores the first one counts.

    The result is that of `scores.argmax(0)`, which takes up to 100 times as long on the CPU
    (benchmarks/validation.py).
    """
    best = scores[0]
    number = (scores[1] > scores[0]).view(torch.uint8)
    for k in range(2, len(scores)):
        best = torch.maximum(best, scores[k - 1])
        number = torch.maximum(number, (scores[k] > best).view(torch.uint8) * k)
    return number
