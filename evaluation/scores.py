"""The scores of one case, class by class, in both conventions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.masks import TOLERANCE, image_diagonal
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

    `worst_voxel`, `worst_mm`: the worst possible distance in each unit. `tolerance`: of NSD, in
    each unit.
    """

    case: str
    class_name: str
    voxel: MaskMetrics
    mm: MaskMetrics | None
    worst_voxel: float
    worst_mm: float | None
    tolerance: float = TOLERANCE

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
    case: Case,
    prediction: np.ndarray,
    class_names: Sequence[str],
    with_mm: bool = True,
    tolerances: Mapping[str, float] | None = None,
) -> list[ClassScore]:
    """Score each foreground class of a case; `class_names` starts with the background.

    `tolerances`: of NSD, by class; None: the default for all classes.
    """
    spacing = None
    if with_mm:
        spacing = case.spacing_mm
    scores: list[ClassScore] = []
    for number, name in enumerate(class_names[1:], start=1):
        mask = prediction == number
        truth = case.label == number
        tolerance = TOLERANCE
        if tolerances is not None:
            tolerance = tolerances[name]
        score = score_masks(
            case.name,
            name,
            prediction=mask,
            truth=truth,
            spacing=spacing,
            tolerance=tolerance,
        )
        scores.append(score)
    return scores


def score_masks(
    case: str,
    class_name: str,
    prediction: np.ndarray,
    truth: np.ndarray,
    spacing: Sequence[float] | None,
    tolerance: float = TOLERANCE,
) -> ClassScore:
    """Score one class of a case from its two masks.

    `spacing` is in mm, in the axis order of the masks, None if it is not known. `tolerance` of NSD
    is in mm for scores in mm, and in voxels for scores in voxels. A volume of one slice is scored
    as a 2-D image: in 3-D, all of its voxels would be border voxels.
    """
    if truth.ndim == 3 and 1 in truth.shape:
        axis = truth.shape.index(1)
        prediction = prediction.squeeze(axis)
        truth = truth.squeeze(axis)
        if spacing is not None:
            spacing = [size for number, size in enumerate(spacing) if number != axis]
    mm = None
    worst_mm = None
    if spacing is not None:
        mm = mask_metrics(prediction, truth, spacing=spacing, tolerance=tolerance)
        worst_mm = image_diagonal(truth.shape, spacing)
    return ClassScore(
        case=case,
        class_name=class_name,
        voxel=mask_metrics(prediction, truth, tolerance=tolerance),
        mm=mm,
        worst_voxel=image_diagonal(truth.shape),
        worst_mm=worst_mm,
        tolerance=tolerance,
    )
