"""Copy-paste: one box for the batch, one image pasted into another, and pre-training with it (BCP, CVPR 2023, section 3.2; the box
shrinks in Hsu & Hua)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from utils.losses import Loss
from utils.masks import START_RATIO, MaskKind, box_mask, box_sides, draw_corner
from utils.phase import Batch, Losses, Phase, halves


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
        return draw_corner(
            shape, self.sides(shape, step), np.random.default_rng((*self.seed, step))
        )

    def mask(self, image: Tensor, step: int) -> Tensor:
        """Mask (...) of the spatial shape of `image` (N, C, ...), 1 outside the box and 0 inside, on its device."""
        shape = image.shape[2:]
        return box_mask(shape, self.sides(shape, step), self.corner(shape, step), image.device)


@dataclass(frozen=True)
class Pasting:
    """Who is pasted into whom on a data set, and what a teacher's logits become.

    `pretrain_loss`: the mix loss of both parts of a pre-training image, or one loss of the whole against its mixed label.
    `unlabelled_outside`: for the first and the second mixed image of self-training, whether its outside is the unlabelled image.
    `crossed`: whether half a of the unlabelled images meets half b of the labelled ones, and b meets a.
    `pseudo_label`: logits (N, K, ...) to a call that gives class numbers (N, ...), made when they are needed.
    """

    pretrain_loss: Literal["mix", "whole"]
    unlabelled_outside: tuple[bool, bool]
    pseudo_label: Callable[[Tensor], Callable[[], Tensor]]
    crossed: bool = False


def paste(outside: Tensor, inside: Tensor, mask: Tensor) -> Tensor:
    """`outside` where mask = 1, `inside` where mask = 0; images (N, C, ...) or labels (N, ...)."""
    return torch.where(mask.bool(), outside, inside)


class CopyPastePretrain(Phase):
    """Half b of the labelled images is pasted into half a."""

    name = "pre_train"

    def __init__(self, student: nn.Module, loss: Loss, pasting: Pasting, copy_paste: CopyPaste):
        super().__init__(student=student)
        self.loss, self.pasting, self.copy_paste = loss, pasting, copy_paste

    def losses(self, batch: Batch, step: int) -> Losses:
        (image_a, image_b), (label_a, label_b) = halves(batch["image"]), halves(batch["label"])
        mask = self.copy_paste.mask(image_a, step)
        mixed = paste(image_a, image_b, mask)  # (N / 2, C, ...)
        label = paste(label_a, label_b, mask)
        if self.pasting.pretrain_loss == "mix":
            logits, scalars = self.scored(mixed, self.loss.of_mixed, label_a, label_b, mask)
        else:
            logits, scalars = self.scored(mixed, self.loss.of_whole, label)
        self.watch(logits, step)
        self.show(mixed, logits, label)
        return {**scalars, "box_side": self.copy_paste.sides(mask.shape, step)[0]}

    def watch(self, logits: Tensor, step: int) -> None:
        """Called with the logits (N / 2, K, ...) of every step; for methods that learn something from them."""
