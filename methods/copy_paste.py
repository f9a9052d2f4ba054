"""Copy-paste: where the box lies at each step, and the rules of a data set for what is pasted into
what (BCP, CVPR 2023, section 3.2; the box that shrinks during training is Hsu & Hua's).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

START_RATIO = 2 / 3
MaskKind = Literal["dynamic", "fixed"]


def box_sides(
    shape: Sequence[int],
    t: int,
    total: int,
    end_ratio: float,
    kind: MaskKind = "dynamic",
    start_ratio: float = START_RATIO,
) -> tuple[int, ...]:
    """Return the sides of the box in an image of `shape`.

    `t`: iteration (or epoch) in a stage of `total`.

    Each side is int(side * s). `dynamic`: s falls linearly from `start_ratio` to `end_ratio`;
    `fixed`: s stays at `start_ratio`. `start_ratio` is 2/3 (BCP), except in CoGRNet's focus area.
    """
    ratio = start_ratio
    if kind == "dynamic":
        ratio = start_ratio - t / total * (start_ratio - end_ratio)
    return tuple(int(side * ratio) for side in shape)


def draw_corner(
    shape: Sequence[int], sides: Sequence[int], rng: np.random.Generator
) -> tuple[int, ...]:
    """Draw the box's first corner, uniform in [0, side - box) on each axis.

    It is 0 on an axis where the box is as large as the image.
    """
    corner: list[int] = []
    for side, box in zip(shape, sides, strict=True):
        room = max(side - box, 1)
        corner.append(int(rng.integers(room)))
    return tuple(corner)


def box_mask(
    shape: Sequence[int],
    sides: Sequence[int],
    corner: Sequence[int],
    device: torch.device | str = "cpu",
) -> Tensor:
    """Return a mask of `shape` (float32): 0 in the box of `sides` from `corner`, else 1."""
    inside = tuple(slice(first, first + box) for first, box in zip(corner, sides, strict=True))
    mask = torch.ones(tuple(shape), device=device)
    mask[inside].zero_()  # on the device itself, so nothing is copied to it
    return mask


@dataclass(frozen=True)
class CopyPaste:
    """The copy-paste box of each step of a stage: its sides follow a schedule, its corner follows
    from (seed, step).

    The schedule counts `total` iterations from 0 or, if `epoch` (steps per epoch) is given, `total`
    epochs from 1.
    """

    kind: MaskKind
    end_ratio: float
    total: int
    seed: tuple[int, ...]
    epoch: int | None = None
    start_ratio: float = START_RATIO

    def sides(self, shape: Sequence[int], step: int) -> tuple[int, ...]:
        """Return the box's sides in voxels for an image of spatial shape `shape`."""
        time = step if self.epoch is None else step // self.epoch + 1
        return box_sides(shape, time, self.total, self.end_ratio, self.kind, self.start_ratio)

    def corner(self, shape: Sequence[int], step: int) -> tuple[int, ...]:
        """Return the box's first corner in voxels."""
        generator = np.random.default_rng((*self.seed, step))
        return draw_corner(shape, self.sides(shape, step), generator)

    def mask(self, image: Tensor, step: int) -> Tensor:
        """Return the mask (...) for images (N, C, ...): 1 outside the box and 0 inside, on their
        device.
        """
        shape = image.shape[2:]
        return box_mask(shape, self.sides(shape, step), self.corner(shape, step), image.device)


@dataclass(frozen=True)
class Pasting:
    """A data set's rules of copy-paste and of pseudo labels.

    `pretrain_loss`: "mix", a loss for each of the two parts of a pre-training image, or "whole",
    one loss against its mixed label. `unlabelled_outside`: for the first and the second mixed image
    of self-training, whether the unlabelled image is outside the box. `crossed`: whether half a of
    the unlabelled images is mixed with half b of the labelled ones, and b with a. `pseudo_label`:
    turns logits (N, K, ...) into a pending tensor of class numbers (N, ...).
    """

    pretrain_loss: Literal["mix", "whole"]
    unlabelled_outside: tuple[bool, bool]
    pseudo_label: Callable[[Tensor], Callable[[], Tensor]]
    crossed: bool = False


def paste(outside: Tensor, inside: Tensor, mask: Tensor) -> Tensor:
    """Return `outside` where the mask is 1 and `inside` where it is 0; images (N, C, ...) or labels
    (N, ...).
    """
    return torch.where(mask.bool(), outside, inside)
