"""Scores of a test as files and as a table: all cases in metrics.csv, the means in summary.json.

The two files are one result. summary.json holds the SHA-256 of its metrics.csv, so that a pair that
does not belong together is noticed (`reporting.tested_run`). Both hold all metrics of
`evaluation.metrics`. The published convention has the key "as_published", the penalised one
"honest".
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

from evaluation.metrics import (
    OVERLAP_METRICS,
    PUBLISHED,
    MaskMetrics,
    Metric,
    Unit,
    all_metrics,
    metrics_in,
    spacing_metrics,
)
from evaluation.scores import ClassScore
from evaluation.tolerance import in_words
from utils.files import replacing
from utils.names import csv_cell, printable

METRICS_FILE = "metrics.csv"
SUMMARY_FILE = "summary.json"
METRICS_HASH = "metrics_sha256"  # key of summary.json: the hash of its metrics.csv
PREDICTED_WITH = "predicted_with"  # key of summary.json: settings of predict.py, for evaluate.py
NSD_TOLERANCE = "nsd_tolerance"  # key of summary.json: of each class, in mm and in voxels
CONVENTIONS = {
    "as_published": "published: an empty prediction scores 0 in all metrics, which is the best "
    "possible distance",
    "honest": "penalised: an empty prediction scores Dice and NSD 0 and the worst distance, the "
    "diagonal of the image; both empty is a perfect score",
    "nnunet": "only overlap; cases where prediction and truth are both empty are not part of a "
    "class's mean",
}
Means = dict[str, float]
Summary = dict[str, Any]


@dataclass(frozen=True)
class EvaluationResult:
    """The results of a test or of scored predictions, as metrics.csv and summary.json hold them.

    `folder`: where these files are. `scores`: one for each case and class. `summary`: the content
    of summary.json, both metric conventions included.
    """

    folder: Path
    scores: tuple[ClassScore, ...]
    summary: Mapping[str, Any]

    @property
    def mean(self) -> Mapping[str, float]:
        """Means over the cases, then over the classes: dice, jaccard, hd95_voxel, asd_voxel,
        hd95_max_voxel, assd_voxel, nsd_voxel.

        An empty prediction gets the worst score, whose distance is the image's diagonal.
        """
        return self.summary["honest"]["mean"]

    @property
    def class_means(self) -> Mapping[str, Mapping[str, float]]:
        """The same for each class, by its name."""
        return self.summary["honest"]["classes"]


def convention_columns() -> dict[str, dict[str, str]]:
    """For each convention of a comparison, the column of metrics.csv that holds each metric.

    "honest" is penalised, in voxels, "honest_mm" penalised, in mm (without the ratios that are the
    same in voxels).
    """
    voxel = [metric.key("voxel") for metric in metrics_in("voxel")]
    mm = [metric.key("mm") for metric in spacing_metrics()]
    return {
        "honest": {key: f"honest_{key}" for key in voxel},
        "honest_mm": {key: key for key in mm},
        "as_published": {key: key for key in voxel},
    }


def columns() -> list[str]:
    """The columns of metrics.csv: first those of the published metrics, in the order of earlier
    versions.
    """
    published = _metric_columns(is_published=True)
    further = _metric_columns(is_published=False)
    first = [*published["as_published"], *published["honest_mm"]]
    last = [*further["as_published"], *further["honest_mm"], *further["honest"]]
    emptiness = ["empty_prediction", "empty_truth"]
    return ["case", "class", *first, *emptiness, *published["honest"], *last]


def _metric_columns(is_published: bool) -> dict[str, list[str]]:
    """The columns of each convention, of the published metrics or of all others."""
    keys: set[str] = set()
    for metric in all_metrics():
        if (metric.name in PUBLISHED) == is_published:
            keys |= {metric.key("voxel"), metric.key("mm")}
    by_convention: dict[str, list[str]] = {}
    for convention, columns_by_key in convention_columns().items():
        names = [column for key, column in columns_by_key.items() if key in keys]
        by_convention[convention] = names
    return by_convention


def write_results(folder: Path, scores: Sequence[ClassScore], summary: Mapping[str, Any]) -> None:
    """Write metrics.csv and summary.json together; raises OSError if the disk is full.

    Both are written in full under temporary names and only then renamed, so a full disk keeps the
    earlier pair. After a crash between the two renames the new metrics.csv does not have the hash
    that the old summary.json holds.
    """
    metrics = metrics_csv(scores).encode("utf-8", "backslashreplace")
    content = {**summary, METRICS_HASH: hashlib.sha256(metrics).hexdigest()}
    text = (json.dumps(content, indent=1) + "\n").encode("utf-8")
    with (
        replacing(folder / SUMMARY_FILE) as new_summary,
        replacing(folder / METRICS_FILE) as new_metrics,  # the inner one is renamed first
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

    The metrics in voxels have the published convention (an empty prediction scores 0 in all). The
    metrics in mm stay empty where the spacing is unknown. They and the columns `honest_` are
    penalised: an empty prediction gets the worst score.
    """
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns())
    writer.writeheader()
    for score in scores:
        writer.writerow(_cells(score))
    return text.getvalue()


def _cells(score: ClassScore) -> dict[str, str]:
    """The cells of one row of metrics.csv, by column."""
    by_convention = convention_columns()
    cells = {
        "case": csv_cell(score.case),
        "class": csv_cell(score.class_name),
        "empty_prediction": str(int(score.published.empty_prediction)),
        "empty_truth": str(int(score.published.empty_truth)),
    }
    for metric in metrics_in("voxel"):
        key = metric.key("voxel")
        cells[by_convention["as_published"][key]] = _formatted(score.published, metric)
        cells[by_convention["honest"][key]] = _formatted(score.penalised, metric)
    for metric in spacing_metrics():
        column = by_convention["honest_mm"][metric.key("mm")]
        cells[column] = ""
        if score.penalised_mm is not None:
            cells[column] = _formatted(score.penalised_mm, metric)
    return cells


def _formatted(scores: MaskMetrics, metric: Metric) -> str:
    return f"{scores.values[metric.name]:.6f}"


def detail_head() -> str:
    """The head of the lines of `detail`."""
    return _head("case and class, published", "voxel")


def detail(scores: Sequence[ClassScore]) -> str:
    """A line for each score in the published convention, below `detail_head`."""
    lines: list[str] = []
    for score in scores:
        name = printable(f"{score.case} {score.class_name}")
        line = _row(name, _mean_scores([score.published], "voxel"), "voxel")
        if score.published.empty_prediction:
            line += "  (empty prediction)"
        lines.append(line)
    return "\n".join(lines)


def summarise(scores: Sequence[ClassScore]) -> Summary:
    """Means over cases for each class, and over the classes, in both conventions."""
    by_class: dict[str, list[ClassScore]] = {}
    for score in scores:
        by_class.setdefault(score.class_name, []).append(score)
    published: dict[str, Means] = {}
    penalised: dict[str, Means] = {}
    nnunet: dict[str, dict[str, float | None]] = {}
    for name, of_class in by_class.items():
        published[name] = _mean_scores([score.published for score in of_class], "voxel")
        penalised[name] = _mean_scores([score.penalised for score in of_class], "voxel")
        nnunet[name] = _nnunet_means(of_class)
    absent = [score for score in scores if score.voxel.empty_truth]
    empty = [score for score in scores if score.voxel.empty_prediction]
    missed = [score for score in empty if not score.voxel.empty_truth]
    return {
        "as_published": _with_mean(published),
        "honest": {
            **_with_mean(penalised),
            "millimetres": _millimetres(by_class),
            "empty_predictions": len(missed),
            "absent_in_truth": len(absent),
        },
        "nnunet": {"mean": _mean_of_known(list(nnunet.values())), "classes": nnunet},
        "conventions": CONVENTIONS,
        NSD_TOLERANCE: {name: of_class[0].tolerance for name, of_class in by_class.items()},
    }


def _nnunet_means(scores: Sequence[ClassScore]) -> dict[str, float | None]:
    """Mean overlaps of a class as nnU-Net computes them: over the cases where prediction or truth
    has the class.

    None where no case has it.
    """
    present: list[MaskMetrics] = []
    for score in scores:
        if not (score.voxel.empty_truth and score.voxel.empty_prediction):
            present.append(score.voxel)
    means: dict[str, float | None] = {}
    for name in OVERLAP_METRICS:
        means[name] = None
        if present:
            means[name] = float(np.mean([metrics.values[name] for metrics in present]))
    return means


def _mean_of_known(classes: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """Means over the classes; None if a class has none."""
    means: dict[str, float | None] = {}
    for name in OVERLAP_METRICS:
        values = [row[name] for row in classes]
        known = [value for value in values if value is not None]
        means[name] = None
        if len(known) == len(values):
            means[name] = float(np.mean(known))
    return means


def _with_mean(classes: Mapping[str, Means]) -> dict[str, Any]:
    """The means of each class with those over the classes."""
    rows = list(classes.values())
    overall: Means = {}
    for key in rows[0]:
        overall[key] = float(np.mean([row[key] for row in rows]))
    return {"mean": overall, "classes": dict(classes)}


def _mean_scores(scores: Sequence[MaskMetrics], unit: Unit) -> Means:
    """Means of all metrics in that unit, by their key in files."""
    means: Means = {}
    for metric in metrics_in(unit):
        values = [score.values[metric.name] for score in scores]
        means[metric.key(unit)] = float(np.mean(values))
    return means


def _millimetres(by_class: Mapping[str, Sequence[ClassScore]]) -> dict[str, Any] | None:
    """Means in mm; None unless the spacing of every case is known.

    A mean over some of the cases would be that of another data set.
    """
    means: dict[str, Means] = {}
    for name, scores in by_class.items():
        in_mm = [score.penalised_mm for score in scores]
        known = [metrics for metrics in in_mm if metrics is not None]
        if len(known) < len(scores):
            return None
        means[name] = _mean_scores(known, "mm")
    return _with_mean(means)


def table(summary: Mapping[str, Any]) -> str:
    """The summary as lines of text."""
    penalised = summary["honest"]
    lines = _part("published, distances in voxels", summary["as_published"], "voxel")
    lines += _part("penalised, distances in voxels", penalised, "voxel")
    tolerance = in_words(summary[NSD_TOLERANCE], "voxels")
    if penalised["millimetres"]:
        lines += _part("penalised, distances in mm", penalised["millimetres"], "mm")
        tolerance += f"; where distances are in mm: {in_words(summary[NSD_TOLERANCE], 'mm')}"
    lines.append(f"NSD tolerance: {tolerance}")
    lines.append(f"empty predictions: {penalised['empty_predictions']}")
    return "\n".join(lines)


def _part(title: str, means: Mapping[str, Any], unit: Unit) -> list[str]:
    lines = [_head(title, unit)]
    for name, row in [*means["classes"].items(), ("mean", means["mean"])]:
        lines.append(_row(name, row, unit))
    return lines


def _head(title: str, unit: Unit) -> str:
    heads = [f"{metric.title:>{_width(metric)}}" for metric in metrics_in(unit)]
    return f"{title:<34}{''.join(heads)}"


def _row(name: str, means: Mapping[str, float], unit: Unit) -> str:
    cells: list[str] = []
    for metric in metrics_in(unit):
        digits = 2 if metric.is_length else 4
        cells.append(f"{means[metric.key(unit)]:>{_width(metric)}.{digits}f}")
    return f"  {name:<32}{''.join(cells)}"


def _width(metric: Metric) -> int:
    least = 9 if metric.is_length else 8
    return max(least, len(metric.title) + 2)


def write_json(path: Path, content: Mapping[str, Any], indent: int | None = 1) -> None:
    """Write the content to a JSON file, which is replaced when the new one is complete.

    `indent`: None for a file that programs read, in a single line.
    """
    with replacing(path) as unfinished:
        unfinished.write_text(json.dumps(content, indent=indent) + "\n")
