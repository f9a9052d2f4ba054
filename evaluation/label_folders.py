"""Pair the files of two folders of predicted and true label maps, and score a pair."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.class_values import LARGEST_VALUE, ClassValues
from evaluation.scores import ClassScore, score_masks
from scans.geometry import SAME_GRID, size, turned_onto, voxels_apart
from scans.reading import Scan, listed_values, read_label, read_scan, rounded_label
from scans.scan_files import SCANS, by_case
from utils.errors import UserError
from utils.provenance import sha256

MOST_VALUES = 256  # of labels without a description
NAMED = 3  # cases that a warning names
LabelArray = NDArray[Any]


@dataclass(frozen=True)
class LabelPair:
    """The files of one case."""

    name: str
    prediction: Path
    label: Path


@dataclass(frozen=True)
class FolderPairs:
    """The cases that both folders have.

    `missing`: labels without a prediction. `surplus`: predictions without a label.
    """

    pairs: tuple[LabelPair, ...]
    missing: tuple[str, ...]
    surplus: tuple[str, ...]


@dataclass(frozen=True)
class PairScores:
    """The scores of one case, the SHA-256 of its prediction, and warnings about the files."""

    scores: tuple[ClassScore, ...]
    sha256: str
    warnings: tuple[str, ...]


def find_pairs(predictions: Path, labels: Path) -> FolderPairs:
    """Pair the files of both folders by their names. Raises UserError if there is no pair."""
    true = by_case(labels)
    predicted = by_case(predictions)
    endings = ", ".join(SCANS)
    if not true:
        raise UserError(f"--labels {labels}: no label below it; {endings} files are taken")
    if not predicted:
        raise UserError(
            f"--predictions {predictions}: no prediction below it; {endings} files are taken"
        )
    pairs = _pairs(predicted, true)
    if not pairs:
        raise UserError(
            f"--predictions {predictions}: no prediction has the name of a label in {labels} "
            f"(first prediction {next(iter(predicted))}, first label {next(iter(true))}); rename "
            "the predictions, or correct --labels"
        )
    return FolderPairs(
        pairs,
        missing=tuple(name for name in true if name not in predicted),
        surplus=tuple(name for name in predicted if name not in true),
    )


def _pairs(predicted: Mapping[str, Path], true: Mapping[str, Path]) -> tuple[LabelPair, ...]:
    pairs: list[LabelPair] = []
    for name, path in true.items():
        if name in predicted:
            pairs.append(LabelPair(name, prediction=predicted[name], label=path))
    return tuple(pairs)


def label_values(pair: LabelPair) -> tuple[int, ...]:
    """The values that a label holds. Raises UserError unless they are whole numbers."""
    values = np.unique(rounded_label(read_scan(pair.label).array))
    is_label = not (values % 1).any() and values[0] >= 0 and values[-1] <= LARGEST_VALUE
    if not is_label or values.size > MOST_VALUES:
        raise UserError(
            f"{pair.label}: holds {listed_values(values)}, expected at most {MOST_VALUES} whole "
            f"numbers from 0 to {LARGEST_VALUE}; name the labels' folder"
        )
    return tuple(int(value) for value in values)


def score_pair(
    pair: LabelPair,
    classes: ClassValues,
    ignore_geometry: bool,
    tolerances: Mapping[str, float],
) -> PairScores:
    """Score one case. Raises UserError if the two files do not belong together.

    `ignore_geometry`: compare voxel by voxel where the headers disagree. `tolerances`: of NSD, by
    class.
    """
    label_allowed = classes.allowed
    if classes.ignore is not None:
        label_allowed = (*classes.allowed, classes.ignore)
    warnings: list[str] = []

    def warn(line: str | None) -> None:
        if line:
            warnings.append(line)

    truth = read_label(pair.label, label_allowed, classes.source, warn)
    predicted = read_label(pair.prediction, classes.allowed, classes.source, warn)
    prediction, warning = _on_grid_of(truth, pair, predicted, ignore_geometry=ignore_geometry)
    warn(warning)
    true: LabelArray = truth.array
    counted = np.ones(true.shape, np.bool_)
    if classes.ignore is not None:
        counted = true != classes.ignore
    scores: list[ClassScore] = []
    for name, values in classes.values.items():
        score = score_masks(
            pair.name,
            name,
            prediction=np.isin(prediction, values) & counted,
            truth=np.isin(true, values) & counted,
            spacing=truth.geometry.spacing.tolist(),
            tolerance=tolerances[name],
        )
        scores.append(score)
    return PairScores(tuple(scores), sha256=sha256(pair.prediction), warnings=tuple(warnings))


def _on_grid_of(
    truth: Scan, pair: LabelPair, prediction: Scan, ignore_geometry: bool
) -> tuple[LabelArray, str]:
    """The prediction in the voxel order of the truth, and a warning.

    It is turned where the headers require it.
    """
    turned = turned_onto(prediction.array, prediction.geometry, truth.shape, truth.geometry)
    if turned is not None:
        return turned, ""
    if prediction.shape != truth.shape:
        raise UserError(
            f"{pair.prediction}: has {size(prediction.shape)} voxels, its label "
            f"{size(truth.shape)}; predict on the grid of the scan, or resample"
        )
    apart = voxels_apart(prediction.geometry, truth.geometry, truth.shape)
    if apart < SAME_GRID:
        return prediction.array, ""
    line = f"{pair.prediction}: by the headers it lies up to {apart:.1f} voxels from its label"
    if not ignore_geometry:
        raise UserError(f"{line}; fix the header, or compare voxel by voxel with --ignore_geometry")
    return prediction.array, f"{line}; compared voxel by voxel"
