"""2-D augmentation of ACDC as BCP has it: a random draw, then a deterministic transform that can be replayed and tested."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage


@dataclass(frozen=True)
class SliceTransform:
    """Quarter turns (counter-clockwise), then a flip along an axis, then a rotation by `angle` degrees; None and 0 change nothing."""

    quarter_turns: int = 0
    flip_axis: int | None = None
    angle: int = 0

    def __call__(self, array: np.ndarray) -> np.ndarray:
        """Transform one (H, W) array; order 0, the shape is kept but for odd quarter turns."""
        array = np.rot90(array, self.quarter_turns)
        if self.flip_axis is not None:
            array = np.flip(array, self.flip_axis)
        return ndimage.rotate(array, self.angle, order=0, reshape=False) if self.angle else array


def draw_slice_transform(rng: np.random.Generator) -> SliceTransform:
    """Half of the draws: a quarter turn and a flip. Of the other half, half: a rotation by a whole angle in [-20, 20)."""
    if rng.random() > 0.5:
        return SliceTransform(quarter_turns=int(rng.integers(4)), flip_axis=int(rng.integers(2)))
    if rng.random() > 0.5:
        return SliceTransform(angle=int(rng.integers(-20, 20)))
    return SliceTransform()
