"""The scores of one case, class by class, in both conventions."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from utils.case import Case
from utils.metrics import (
    MaskMetrics,
    image_diagonal,
    mask_metrics,
    penalised_convention,
    published_convention,
)


@dataclass(frozen=True)
class ClassScore:
    """One class of one case: raw metrics in voxels, in mm where the spacing is known, and the worst distance in either unit."""

    case: str
    class_name: str
    voxel: MaskMetrics
    mm: MaskMetrics | None
    worst_voxel: float
    worst_mm: float | None

    @property
    def published(self) -> MaskMetrics:
        return published_convention(self.voxel, self.worst_voxel)

    @property
    def penalised(self) -> MaskMetrics:
        return penalised_convention(self.voxel, self.worst_voxel)

    @property
    def penalised_mm(self) -> MaskMetrics | None:
        if self.mm is None or self.worst_mm is None:
            return None
        return penalised_convention(self.mm, self.worst_mm)


def score_case(
    case: Case, prediction: np.ndarray, class_names: Sequence[str], with_mm: bool = True
) -> list[ClassScore]:
    """Score each foreground class of a case; `class_names` start with the background."""
    spacing = case.spacing_mm if with_mm else None
    return [
        score_masks(case.name, name, prediction == number, case.label == number, spacing)
        for number, name in list(enumerate(class_names))[1:]
    ]


def score_masks(
    case: str,
    class_name: str,
    prediction: np.ndarray,
    truth: np.ndarray,
    spacing: Sequence[float] | None,
) -> ClassScore:
    """Score one class of a case by its two masks; `spacing` (mm, in the axis order of the masks) where it is known."""
    mm = None if spacing is None else mask_metrics(prediction, truth, spacing)
    worst_mm = None if spacing is None else image_diagonal(truth.shape, spacing)
    return ClassScore(
        case, class_name, mask_metrics(prediction, truth), mm, image_diagonal(truth.shape), worst_mm
    )
