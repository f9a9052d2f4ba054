"""The scores of one case, class by class, in both conventions."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.masks import image_diagonal
from evaluation.metrics import (
    MaskMetrics,
    mask_metrics,
    penalised_convention,
    published_convention,
)
from utils.case import Case


@dataclass(frozen=True)
class ClassScore:
    """Metrics of one class of one case in voxels, and in mm if the spacing is known.

    `worst_voxel`, `worst_mm`: the worst possible distance in each unit.
    """

    case: str
    class_name: str
    voxel: MaskMetrics
    mm: MaskMetrics | None
    worst_voxel: float
    worst_mm: float | None

    @property
    def published(self) -> MaskMetrics:
        """Scores in voxels by the published convention: an empty prediction scores 0."""
        return published_convention(self.voxel, self.worst_voxel)

    @property
    def penalised(self) -> MaskMetrics:
        """Scores in voxels; an empty prediction gets the worst score."""
        return penalised_convention(self.voxel, self.worst_voxel)

    @property
    def penalised_mm(self) -> MaskMetrics | None:
        """Scores in mm; an empty prediction gets the worst score.

        None if the spacing is unknown.
        """
        if self.mm is None or self.worst_mm is None:
            return None
        return penalised_convention(self.mm, self.worst_mm)


def score_case(
    case: Case, prediction: np.ndarray, class_names: Sequence[str], with_mm: bool = True
) -> list[ClassScore]:
    """Score each foreground class of a case; `class_names` starts with the background."""
    spacing = None
    if with_mm:
        spacing = case.spacing_mm
    scores: list[ClassScore] = []
    for number, name in enumerate(class_names[1:], start=1):
        mask = prediction == number
        truth = case.label == number
        scores.append(score_masks(case.name, name, prediction=mask, truth=truth, spacing=spacing))
    return scores


def score_masks(
    case: str,
    class_name: str,
    prediction: np.ndarray,
    truth: np.ndarray,
    spacing: Sequence[float] | None,
) -> ClassScore:
    """Score one class of a case from its two masks.

    `spacing` is in mm, in the axis order of the masks, None if it is not known.
    """
    mm = None
    worst_mm = None
    if spacing is not None:
        mm = mask_metrics(prediction, truth, spacing=spacing)
        worst_mm = image_diagonal(truth.shape, spacing)
    return ClassScore(
        case=case,
        class_name=class_name,
        voxel=mask_metrics(prediction, truth),
        mm=mm,
        worst_voxel=image_diagonal(truth.shape),
        worst_mm=worst_mm,
    )
