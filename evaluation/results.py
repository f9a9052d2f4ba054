"""Scores of a test as files and as a table: every case in metrics.csv, the means of both conventions in summary.json.

The two files are one result. summary.json holds the SHA-256 of its metrics.csv, so a pair that does not belong together is
noticed (`pair_fault`).
"""

import csv
import hashlib
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.metrics import MaskMetrics
from evaluation.scores import ClassScore
from utils.files import replacing
from utils.names import csv_cell, printable

METRICS, SUMMARY = "metrics.csv", "summary.json"
METRICS_HASH = (
    "metrics_sha256"  # key of summary.json: the hash of the metrics.csv that it was computed with
)
FIGURES = ("dice", "jaccard", "hd95_voxel", "asd_voxel")
MILLIMETRES = ("hd95_mm", "asd_mm")
HONEST = tuple(f"honest_{name}" for name in FIGURES)
COLUMNS = ("case", "class", *FIGURES, *MILLIMETRES, "empty_prediction", "empty_truth", *HONEST)


@dataclass(frozen=True)
class EvaluationResult:
    """The results of a test or of scored predictions, as metrics.csv and summary.json in `folder` hold them.

    `scores`: one for each case and class. `summary`: the content of summary.json, both metric conventions included.
    """

    folder: Path
    scores: tuple[ClassScore, ...]
    summary: Mapping[str, Any]

    @property
    def mean(self) -> Mapping[str, float]:
        """Means over the cases, then over the classes: dice, jaccard, hd95_voxel, asd_voxel.

        An empty prediction gets the worst score, whose distance is the image's diagonal.
        """
        return self.summary["honest"]["mean"]

    @property
    def class_means(self) -> Mapping[str, Mapping[str, float]]:
        """The same for each class, by its name."""
        return self.summary["honest"]["classes"]


def write_results(folder: Path, scores: Sequence[ClassScore], summary: Mapping) -> None:
    """Write metrics.csv and summary.json together; raises OSError where the disk does not take them.

    Both are written in full under temporary names and only then renamed, so a full disk leaves the earlier pair as it was. After a
    crash between the two renames the new metrics.csv does not have the hash that the old summary.json holds.
    """
    metrics = metrics_csv(scores).encode("utf-8", "backslashreplace")
    content = {**summary, METRICS_HASH: hashlib.sha256(metrics).hexdigest()}
    text = (json.dumps(content, indent=1) + "\n").encode("utf-8")
    with (
        replacing(folder / SUMMARY) as new_summary,
        replacing(folder / METRICS) as new_metrics,  # the inner one is renamed first
    ):
        _write_to_disk(new_metrics, metrics)
        _write_to_disk(new_summary, text)


def _write_to_disk(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def metrics_csv(scores: Sequence[ClassScore]) -> str:
    """Return the content of metrics.csv, one row per case and class.

    First Dice, Jaccard and distances in voxels by the published convention (an empty prediction scores 0 in all four). Distances in mm,
    which stay empty where the spacing is unknown, and the columns `honest_` are penalised: an empty prediction gets the worst score.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for score in scores:
        millimetres = ["", ""]
        if score.penalised_mm is not None:
            millimetres = [f"{score.penalised_mm.hd95:.6f}", f"{score.penalised_mm.asd:.6f}"]
        empty = [int(score.published.empty_prediction), int(score.published.empty_truth)]
        published = _formatted(score.published)
        penalised = _formatted(score.penalised)
        names = [csv_cell(score.case), csv_cell(score.class_name)]
        writer.writerow([*names, *published, *millimetres, *empty, *penalised])
    return text.getvalue()


def _formatted(metrics: MaskMetrics) -> list[str]:
    return [f"{value:.6f}" for value in (metrics.dice, metrics.jaccard, metrics.hd95, metrics.asd)]


def detail_head() -> str:
    return _head("case and class, published")


def detail(scores: Sequence[ClassScore]) -> str:
    """A line for each score, as published, below `detail_head`."""
    return "\n".join(
        _row(printable(f"{score.case} {score.class_name}"), _figures([score.published], "voxel"))
        + ("  (empty prediction)" if score.published.empty_prediction else "")
        for score in scores
    )


def summarise(scores: Sequence[ClassScore]) -> dict:
    """Means over cases for each class, and over the classes, in both conventions."""
    names = list(dict.fromkeys(score.class_name for score in scores))
    by_class = {name: [score for score in scores if score.class_name == name] for name in names}
    return {
        "as_published": _means(
            {name: [s.published for s in mine] for name, mine in by_class.items()}, "voxel"
        ),
        "honest": {
            **_means(
                {name: [s.penalised for s in mine] for name, mine in by_class.items()}, "voxel"
            ),
            "millimetres": _millimetres(by_class),
            "empty_predictions": sum(
                s.voxel.empty_prediction and not s.voxel.empty_truth for s in scores
            ),
            "absent_in_truth": sum(s.voxel.empty_truth for s in scores),
        },
        "nnunet": {
            "mean": _overlaps(scores, names),
            "classes": {name: _overlaps(mine, [name]) for name, mine in by_class.items()},
        },
        "conventions": {
            "as_published": "published: an empty prediction scores 0 in all four metrics, which is the best possible distance",
            "honest": "penalised: an empty prediction scores Dice 0 and the worst distance, the diagonal of the image; both empty is a perfect score",
            "nnunet": "only overlap; cases where prediction and truth are both empty are not part of a class's mean",
        },
    }


def _overlaps(scores: Sequence[ClassScore], names: Sequence[str]) -> dict[str, float | None]:
    """Dice and Jaccard as nnU-Net averages them: over the cases that have the class in prediction or truth, then over the classes; None
    where a class is in no case."""
    found = {
        name: [
            s.voxel
            for s in scores
            if s.class_name == name and not (s.voxel.empty_truth and s.voxel.empty_prediction)
        ]
        for name in names
    }
    if not all(found.values()):
        return {"dice": None, "jaccard": None}
    return {
        key: float(np.mean([np.mean([getattr(m, key) for m in mine]) for mine in found.values()]))
        for key in ("dice", "jaccard")
    }


def _means(by_class: dict[str, list[MaskMetrics]], unit: str) -> dict:
    classes = {name: _figures(metrics, unit) for name, metrics in by_class.items()}
    overall = {
        key: float(np.mean([figures[key] for figures in classes.values()]))
        for key in next(iter(classes.values()))
    }
    return {"mean": overall, "classes": classes}


def _figures(metrics: list[MaskMetrics], unit: str) -> dict[str, float]:
    return {
        "dice": float(np.mean([m.dice for m in metrics])),
        "jaccard": float(np.mean([m.jaccard for m in metrics])),
        f"hd95_{unit}": float(np.mean([m.hd95 for m in metrics])),
        f"asd_{unit}": float(np.mean([m.asd for m in metrics])),
    }


def _millimetres(by_class: dict[str, list[ClassScore]]) -> dict | None:
    """None unless the spacing of every case is known: a mean over some of the cases would be another data set's."""
    metrics_by_class: dict[str, list[MaskMetrics]] = {}
    for name, scores in by_class.items():
        metrics = [score.penalised_mm for score in scores if score.penalised_mm is not None]
        if len(metrics) < len(scores):
            return None
        metrics_by_class[name] = metrics
    return _means(metrics_by_class, "mm")


def table(summary: dict) -> str:
    """The summary as lines of text."""
    lines = []
    for title, key in (("published", "as_published"), ("penalised", "honest")):
        part = summary[key]
        lines.append(_head(f"{title}, distances in voxels"))
        lines += [
            _row(name, figures)
            for name, figures in [*part["classes"].items(), ("mean", part["mean"])]
        ]
    if summary["honest"]["millimetres"]:
        part = summary["honest"]["millimetres"]
        lines.append(_head("penalised, distances in mm"))
        lines += [
            _row(name, figures)
            for name, figures in [*part["classes"].items(), ("mean", part["mean"])]
        ]
    lines.append(f"empty predictions: {summary['honest']['empty_predictions']}")
    return "\n".join(lines)


def _head(title: str) -> str:
    return f"{title:<34}{'Dice':>8}{'Jaccard':>9}{'HD95':>9}{'ASD':>9}"


def _row(name: str, figures: dict[str, float]) -> str:
    dice, jaccard, hd95, asd = figures.values()
    return f"  {name:<32}{dice:>8.4f}{jaccard:>9.4f}{hd95:>9.2f}{asd:>9.2f}"


def write_json(path: Path, content: dict) -> None:
    with replacing(path) as unfinished:
        unfinished.write_text(json.dumps(content, indent=1) + "\n")
