"""Read tested runs: summary.json and metrics.csv of a test, and the checkpoints that recorded the
training.
"""

import csv
import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.results import (
    METRICS_FILE,
    METRICS_HASH,
    NSD_TOLERANCE,
    SUMMARY_FILE,
    convention_columns,
)
from reporting.summary import check_summary
from training.checkpoint import Checkpoint, read_ours
from utils.errors import UserError
from utils.json_file import read_json
from utils.names import csv_text

ASIDE = re.compile(r"\.\d{8}-\d{6}(-\d+)?$")  # end of the name of a folder that was moved aside
OF_VALIDATED = re.compile(r"_validated_\d+_")  # test of a network that --keep_validated kept
ROUNDING = 1e-6  # metrics.csv has six decimals
STAGES = ("supervised", "pre_train", "self_train")
Values = dict[str, dict[str, np.ndarray]]


@dataclass(frozen=True, eq=False)
class Result:
    """One test: its `folder`, the content of summary.json, and the scores of metrics.csv.

    `values`: by convention and metric an array (cases, classes), nan where the file has no value.
    """

    folder: Path
    summary: Mapping[str, Any]
    cases: tuple[str, ...]
    classes: tuple[str, ...]
    values: Mapping[str, Mapping[str, np.ndarray]]

    @property
    def checkpoint(self) -> Mapping[str, Any]:
        """The summary's entry about the network: path, sha256, selection, settings.

        Empty if it has none.
        """
        return self.summary.get("checkpoint") or {}

    @property
    def settings(self) -> Mapping[str, Any]:
        """Settings of the run, empty for predictions of other programs."""
        return self.checkpoint.get("settings") or {}

    @property
    def made_with(self) -> Mapping[str, Any]:
        """What the test depends on; empty if the test is older than this record."""
        return self.summary.get("made_with", {})

    @property
    def tolerances(self) -> Mapping[str, float] | None:
        """NSD's tolerance of each class; None if the test is older than NSD."""
        return self.summary.get(NSD_TOLERANCE)

    @property
    def is_last(self) -> bool:
        """Whether the last checkpoint was tested, not the best one."""
        return Path(self.checkpoint.get("path", "")).name in ("last.pth", "previous.pth")

    @property
    def is_selected_on_test(self) -> bool:
        """Whether the tested checkpoint was selected by its score on the test list."""
        if self.is_last:
            return False
        select = self.settings.get("select", "published")
        if select == "published":
            # records of older versions name the split only in the words of the selection rule
            return "too good" in self.checkpoint.get("selection", "")
        return select == "test"

    @property
    def stage(self) -> str:
        """Training stage of the tested checkpoint."""
        return Path(self.checkpoint.get("path", "")).parent.name

    @cached_property
    def run(self) -> Path | None:
        """The run's folder, None if its checkpoints no longer exist."""
        if not self.settings:
            return None
        candidates = (
            self.folder.parent,
            self.folder.parent.parent,
            Path(self.checkpoint["path"]).parent.parent,
            self.folder.parent.parent.parent,
        )
        for candidate in candidates:
            if any(candidate.glob("*/last.pth")):
                return candidate
        return None

    @cached_property
    def stages(self) -> dict[str, Checkpoint]:
        """The last checkpoint of each stage up to the tested one, in order, without weights.

        Empty if they are not available.
        """
        if self.run is None:
            return {}
        paths = sorted(self.run.glob("*/last.pth"), key=_stage_order)
        names = [path.parent.name for path in paths]
        if self.stage in names:
            paths = paths[: names.index(self.stage) + 1]
        stages = {}
        for path in paths:
            checkpoint = read_ours(path, ", so it does not record the training")
            # the weights are large and not needed here
            light = replace(checkpoint, weights={}, optimizer=None, stage_state={})
            stages[path.parent.name] = light
        return stages

    def means(self, convention: str) -> Mapping[str, Any] | None:
        """Means over the cases: `mean` over the classes, and `classes`.

        None where the spacing is unknown.
        """
        if convention == "honest_mm":
            return self.summary["honest"]["millimetres"]
        return self.summary[convention]


def find_result(path: Path, which: str = "best") -> Result:
    """Find the test in a folder: the folder itself, or one below the folder of a run or of a stage.

    Of several tests of a run, the one on the test list is taken, and of these the one of the last
    stage. Raises UserError where there is no test, or where several remain.
    """
    if not path.is_dir():
        raise UserError(
            f"{path}: no such folder; name a tested run, or a folder with summary.json and "
            "metrics.csv"
        )
    if (path / SUMMARY_FILE).is_file():
        return read_result(path)
    stage = path.name if any(path.glob("*.pth")) else None
    runs = [path] if stage is None else [path, path.parent]
    results = _tests(runs, "test/*", stage=stage)
    chosen = _of_checkpoint(results, which)
    if not chosen:  # older versions wrote the test to other folders
        older = _tests(runs, "*_predictions", stage=stage)
        older += _tests(runs, "*_predictions/last", stage=stage)
        results += older
        chosen = _of_checkpoint(older, which)
    if not chosen:
        other = f" of its {which} checkpoint" if results else ""
        raise UserError(
            f"{path}: no test{other} in it; run the test script first (code/test.py, "
            f"test_ACDC.py ...), or code/evaluate.py"
        )
    chosen = _preferred(chosen)
    if len(chosen) > 1:
        folders = ", ".join(str(result.folder) for result in chosen)
        raise UserError(f"{path}: holds several tests; name one of {folders}")
    return chosen[0]


def read_result(folder: Path) -> Result:
    """Read the test in the folder.

    Raises UserError where its files are missing or damaged, are of another program, or are not of
    the same test.
    """
    summary_path = folder / SUMMARY_FILE
    metrics_path = folder / METRICS_FILE
    summary = _read_summary(summary_path)
    if not metrics_path.is_file():
        raise UserError(
            f"{metrics_path}: no such file, and without it cases cannot be paired; test again"
        )
    try:
        content = metrics_path.read_bytes()
        rows = _parse_metrics(content)
        cases = tuple(dict.fromkeys(row.case for row in rows))
        classes = tuple(dict.fromkeys(row.name for row in rows))
        values = _values(rows, cases, classes=classes)
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise UserError(
            f"{metrics_path}: damaged ({type(error).__name__}: {error}); test again"
        ) from None
    if not rows:
        raise UserError(f"{metrics_path}: holds no cases; test again")
    try:
        check_summary(summary, classes)
    except ValueError as error:
        raise UserError(f"{summary_path}: damaged, {error}; test again") from None
    if len(rows) != len(cases) * len(classes) or len(cases) != summary["cases"]:
        raise UserError(
            f"{metrics_path}: {len(cases)} cases, summary.json has {summary['cases']}; test again"
        )
    result = Result(folder, summary, cases=cases, classes=classes, values=values)
    if not _is_same_test(result, content):
        raise UserError(
            f"{metrics_path}: does not belong to the summary.json next to it; a test or "
            f"evaluate.py was interrupted there, test again"
        )
    return result


@dataclass(frozen=True)
class MetricsRow:
    """A row of metrics.csv: the scores of one class of one case, by column."""

    case: str
    name: str
    scores: Mapping[str, float]


def _tests(runs: Sequence[Path], pattern: str, stage: str | None) -> list[Result]:
    """The tests in folders of that pattern below `runs`; of one stage unless it is None."""
    results = []
    for run in runs:
        for folder in sorted(run.glob(pattern)):
            is_other = ASIDE.search(folder.name) or OF_VALIDATED.search(folder.name)
            if (folder / SUMMARY_FILE).is_file() and not is_other:
                results.append(read_result(folder))
    return [result for result in results if stage in (None, result.stage)]


def _of_checkpoint(results: Sequence[Result], which: str) -> list[Result]:
    """The tests of the best or of the last checkpoint; if no best one was tested, all."""
    is_last = which == "last"
    chosen = [result for result in results if result.is_last == is_last]
    if not chosen and not is_last:
        return list(results)
    return chosen


def _preferred(results: Sequence[Result]) -> list[Result]:
    """Of several tests of a run those on the test list, of these those of the last stage."""
    on_test_list = [result for result in results if not result.folder.name.endswith("_val")]
    remaining = on_test_list or list(results)
    last = max(_order(result.stage) for result in remaining)
    return [result for result in remaining if _order(result.stage) == last]


def _read_summary(path: Path) -> dict[str, Any]:
    try:
        summary = read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable as JSON ({error}); test again") from None
    if not isinstance(summary, dict) or not {"as_published", "honest", "cases"} <= summary.keys():
        raise UserError(
            f"{path}: not of a test of this project; score other predictions with code/evaluate.py"
        )
    return summary


def _parse_metrics(content: bytes) -> list[MetricsRow]:
    lines = csv.DictReader(io.StringIO(content.decode("utf-8"), newline=""))
    rows = []
    for line in lines:
        row = MetricsRow(
            case=csv_text(line["case"]), name=csv_text(line["class"]), scores=_scores(line)
        )
        rows.append(row)
    return rows


def _scores(row: Mapping[str, str]) -> dict[str, float]:
    """The numbers of a row, nan where a cell is missing or empty.

    Older files have no penalised columns. The penalised scores of a prediction that is not empty
    are the published ones.
    """
    scores: dict[str, float] = {}
    conventions = convention_columns()
    for columns in conventions.values():
        for column in columns.values():
            cell = row.get(column)
            scores[column] = float(cell) if cell else np.nan
    if "honest_dice" not in row and row["empty_prediction"] == "0":
        for name, column in conventions["honest"].items():
            scores[column] = scores[name]
    return scores


def _values(rows: Sequence[MetricsRow], cases: Sequence[str], classes: Sequence[str]) -> Values:
    """The scores as arrays (cases, classes), by convention and metric.

    Raises KeyError where a class of a case is missing.
    """
    scores = {(row.case, row.name): row.scores for row in rows}
    values: Values = {}
    for convention, columns in convention_columns().items():
        values[convention] = {}
        for metric, column in columns.items():
            array = np.empty((len(cases), len(classes)))
            for i, case in enumerate(cases):
                for j, name in enumerate(classes):
                    array[i, j] = scores[case, name][column]
            values[convention][metric] = array
    return values


def _is_same_test(result: Result, metrics: bytes) -> bool:
    """Whether metrics.csv (its bytes) is the file that summary.json was written with.

    An older summary.json holds no hash. Then its means must be those of metrics.csv.
    """
    if METRICS_HASH in result.summary:
        return result.summary[METRICS_HASH] == hashlib.sha256(metrics).hexdigest()
    try:
        for convention in convention_columns():
            means = result.means(convention)
            if means is not None and not _is_same_mean(result, convention, means=means):
                return False
    except (AttributeError, KeyError, TypeError):
        return False
    return True


def _is_same_mean(result: Result, convention: str, means: Mapping[str, Any]) -> bool:
    """Whether the means over the cases of metrics.csv, up to rounding, are those of summary.json.

    What metrics.csv does not hold (nan) is not compared.
    """
    if set(means["classes"]) != set(result.classes):
        return False
    for metric, values in result.values[convention].items():
        for number, name in enumerate(result.classes):
            mean = values[:, number].mean()
            if np.isnan(mean):
                continue
            expected = means["classes"][name][metric]
            if abs(mean - expected) > ROUNDING:
                return False
    return True


def _stage_order(path: Path) -> tuple[bool, int]:
    """Sort key of a stage's checkpoint: known stages first, in the order of training."""
    stage = path.parent.name
    return stage not in STAGES, _order(stage)


def _order(stage: str) -> int:
    if stage not in STAGES:
        return 0
    return STAGES.index(stage)
