"""The copy-paste step that all stages share: one box for the batch, one image pasted into another."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from utils.masks import START_RATIO, MaskKind, box_mask, box_sides, draw_corner


@dataclass(frozen=True)
class CopyPaste:
    """Where the box lies at each step of a stage: its sides from the schedule, its corner from (seed, step) alone.

    The schedule counts `total` iterations from 0 or, where `epoch` is the number of steps of one, `total` epochs from 1.
    """

    kind: MaskKind
    end_ratio: float
    total: int
    seed: tuple[int, ...]
    epoch: int | None = None
    start_ratio: float = START_RATIO

    def sides(self, shape: Sequence[int], step: int) -> tuple[int, ...]:
        t = step if self.epoch is None else step // self.epoch + 1
        return box_sides(shape, t, self.total, self.end_ratio, self.kind, self.start_ratio)

    def corner(self, shape: Sequence[int], step: int) -> tuple[int, ...]:
        return draw_corner(shape, self.sides(shape, step), np.random.default_rng((*self.seed, step)))

    def mask(self, image: Tensor, step: int) -> Tensor:
        """Mask (...) of the spatial shape of `image` (N, 1, ...), 1 outside the box and 0 inside, on its device."""
        shape = image.shape[2:]
        return box_mask(shape, self.sides(shape, step), self.corner(shape, step)).to(image.device)


def paste(outside: Tensor, inside: Tensor, mask: Tensor) -> Tensor:
    """`outside` where mask = 1, `inside` where mask = 0; images (N, 1, ...) or labels (N, ...)."""
    return torch.where(mask.bool(), outside, inside)
