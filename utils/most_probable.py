"""The class of each voxel from the networks' scores."""

import torch
from torch import Tensor


def most_probable(scores: Tensor) -> Tensor:
    """Scores (K, ...) of at least two classes to the number (...) uint8 of the largest one, the first of several equal ones.

    As `scores.argmax(0)`, which on the CPU takes up to a hundred times as long (benchmarks/validation.py).
    """
    best, number = scores[0], (scores[1] > scores[0]).view(torch.uint8)
    for k in range(2, len(scores)):
        best = torch.maximum(best, scores[k - 1])
        number = torch.maximum(number, (scores[k] > best).view(torch.uint8) * k)
    return number
