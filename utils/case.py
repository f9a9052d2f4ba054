"""One case to validate or test on."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Case:
    """A volume to validate or test on.

    `image` is (C, S, H, W) or (C, X, Y, Z) float32; `label` has the same shape without C.
    `spacing_mm` is the voxel size in the label's axis order, None where it is not known.
    """

    name: str
    image: np.ndarray
    label: np.ndarray
    spacing_mm: tuple[float, ...] | None = None
    affine: np.ndarray | None = None
