"""One case to validate or test on."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Case:
    """A volume to validate or test on: image (C, S, H, W) or (C, X, Y, Z) float32, label (the same without C),
    voxel spacing in mm in the label's axis order where known."""

    name: str
    image: np.ndarray
    label: np.ndarray
    spacing_mm: tuple[float, ...] | None = None
    affine: np.ndarray | None = None
