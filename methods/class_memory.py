"""SS-Net's memory of features of each class (Wu et al., MICCAI 2022), and distances to it."""

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.base import at_least_float32
from networks.contrast import ContrastiveHeads
from networks.published_weights import HEAD_WIDTH

MEMORY_SIZE = 32
"""Largest number of vectors of a class."""


class ClassMemory:
    """Up to 32 projected features (M, 32) of each foreground class.

    How many pixels of a class are in a batch decides the shapes of tensors here, so the host waits
    for the device once per class.
    """

    def __init__(self, heads: ContrastiveHeads, classes: int, device: torch.device) -> None:
        self.heads = heads
        self.classes = classes
        self.vectors = {
            number: torch.zeros(0, HEAD_WIDTH, device=device) for number in range(1, classes)
        }

    @torch.no_grad()
    def replace(self, feature: Tensor, label: Tensor, is_correct: Tensor) -> None:
        """Replace the vectors of each class by projections of its correctly predicted pixels.

        feature (N, C, ...), label and is_correct (N, ...). Of more than 32 pixels those with the
        lowest ranks are kept, as published. A class without such a pixel keeps its vectors.
        Projections are made in evaluation mode, ranks in training mode.
        """
        self.heads.eval()
        projected = at_least_float32(self.heads.project(pixels(feature)[is_correct.flatten()]))
        self.heads.train()
        label = label[is_correct]
        for number in self.vectors:
            mine = projected[label == number]
            if len(mine) > MEMORY_SIZE:
                order = self.heads.rank(mine, number).argsort(stable=True)
                mine = mine[order[:MEMORY_SIZE]]
            if len(mine):
                self.vectors[number] = mine

    def distance(self, feature: Tensor, label: Tensor) -> Tensor:
        """Return the distance of all foreground pixels' predictions to their classes' memories.

        feature (N, C, ...), label (N, ...). The sum over the foreground classes is divided by the
        number of all classes, as published.
        """
        predicted = at_least_float32(self.heads.predict(pixels(feature)))
        label = label.flatten()
        # keeps the selectors of absent classes in the graph: processes then exchange gradients of
        # the same parameters
        total = 0 * torch.stack([weights.sum() for weights in self.heads.parameters()]).sum()
        for number, memory in self.vectors.items():
            mine = predicted[label == number]
            if len(memory) > 1 and len(mine) > 1:
                ranks = self.heads.rank(mine.detach(), number)
                total = total + distance_to_memory(mine, memory, ranks)
        return total / self.classes


def pixels(feature: Tensor) -> Tensor:
    """Return features (N, C, ...) as one row for each pixel, (P, C)."""
    return feature.movedim(1, -1).flatten(0, -2)


def distance_to_memory(vectors: Tensor, memory: Tensor, ranks: Tensor) -> Tensor:
    """Return the weighted mean of 1 - cosine over all pairs of vectors (P, D) and memory (M, D).

    The weight of a vector is its rank (P,) divided by the mean rank. The mean over the memory is
    taken first: cosines are linear in its normalised vectors.
    """
    similarity = F.normalize(vectors, dim=1) @ F.normalize(memory, dim=1).mean(0)  # (P,)
    weights = len(ranks) * ranks / ranks.sum()
    return (weights * (1 - similarity)).mean()
