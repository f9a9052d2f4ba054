"""One case to validate or test on."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Case:
    """A volume to validate or test on: image (S, H, W) float32, label of the same shape, voxel spacing in mm (z, y, x) where known."""

    name: str
    image: np.ndarray
    label: np.ndarray
    spacing_mm: tuple[float, ...] | None = None
    affine: np.ndarray | None = None
