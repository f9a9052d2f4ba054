"""Copy-paste box masks: 1 outside the box, 0 inside.

They are those of BCP (CVPR 2023); the shrinking box is from Hsu & Hua.
"""

from collections.abc import Sequence
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
    corner = []
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
