"""Copy-paste box masks: 1 outside the box, 0 inside (spec: BCP, CVPR 2023; the shrinking box is Hsu & Hua's)."""

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
    """Sides of the box in an image of `shape` at iteration (or epoch) `t` of a stage of `total`.

    `dynamic`: each side is int(side * s), s falling from `start_ratio` to `end_ratio` in a straight line; `fixed`: s stays there.
    `start_ratio` is 2/3 (BCP) but in CoGRNet's focus area.
    """
    ratio = start_ratio if kind == "fixed" else start_ratio - t / total * (start_ratio - end_ratio)
    return tuple(int(side * ratio) for side in shape)


def draw_corner(
    shape: Sequence[int], sides: Sequence[int], rng: np.random.Generator
) -> tuple[int, ...]:
    """The box's first corner, uniform in [0, side - box) on each axis; 0 where the box is as large as the image."""
    return tuple(
        int(rng.integers(max(side - box, 1))) for side, box in zip(shape, sides, strict=True)
    )


def box_mask(
    shape: Sequence[int],
    sides: Sequence[int],
    corner: Sequence[int],
    device: torch.device | str = "cpu",
) -> Tensor:
    """Mask of `shape` (float32) on `device`: 0 in the box of `sides` from `corner`, else 1."""
    mask = torch.ones(tuple(shape), device=device)
    mask[
        tuple(slice(first, first + box) for first, box in zip(corner, sides, strict=True))
    ].zero_()  # filled there: nothing is sent
    return mask
