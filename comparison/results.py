"""Tested runs as they lie on disk: summary.json and metrics.csv of a test, and how the training of its checkpoint went."""

import csv
import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from comparison.summary import check_summary
from training.checkpoint import Checkpoint, read_ours
from training.results import FIGURES, HONEST, METRICS, METRICS_HASH, MILLIMETRES, SUMMARY
from utils.errors import UserError
from utils.json_file import read_json
from utils.names import csv_text

ASIDE = re.compile(r"\.\d{8}-\d{6}(-\d+)?$")  # ends the name of a folder that was moved aside
ROUNDING = 1e-6  # metrics.csv has six decimals
STAGES = ("supervised", "pre_train", "self_train")
# conventions with their figures and the columns of metrics.csv that hold them
CONVENTIONS = {
    "honest": dict(zip(FIGURES, HONEST, strict=True)),
    "honest_mm": {name: name for name in MILLIMETRES},
    "as_published": {name: name for name in FIGURES},
}


@dataclass(frozen=True, eq=False)
class Result:
    """One test: the `folder` with its files, the `summary`, and of each convention and figure the values (cases, classes), nan where a
    file does not tell."""

    folder: Path
    summary: Mapping
    cases: tuple[str, ...]
    classes: tuple[str, ...]
    values: Mapping[str, Mapping[str, np.ndarray]]

    @property
    def checkpoint(self) -> Mapping:
        """What the summary says of the network: path, sha256, selection, settings; empty where it does not."""
        return self.summary.get("checkpoint") or {}

    @property
    def settings(self) -> Mapping:
        return self.checkpoint.get("settings") or {}

    @property
    def is_last(self) -> bool:
        return Path(self.checkpoint.get("path", "")).name in ("last.pth", "previous.pth")

    @property
    def stage(self) -> str:
        return Path(self.checkpoint.get("path", "")).parent.name

    @cached_property
    def run(self) -> Path | None:
        """The run's folder, where its checkpoints still are."""
        if not self.settings:
            return None
        places = (
            self.folder.parent,
            self.folder.parent.parent,
            Path(self.checkpoint["path"]).parent.parent,
            self.folder.parent.parent.parent,
        )
        return next((place for place in places if any(place.glob("*/last.pth"))), None)

    @cached_property
    def stages(self) -> dict[str, Checkpoint]:
        """The last checkpoint, without weights, of each stage that led to the tested one, in order; empty where they are not at hand."""
        if self.run is None:
            return {}
        paths = sorted(
            self.run.glob("*/last.pth"),
            key=lambda path: (path.parent.name not in STAGES, _order(path.parent.name)),
        )
        names = [path.parent.name for path in paths]
        paths = paths[: names.index(self.stage) + 1] if self.stage in names else paths
        found = {
            path.parent.name: read_ours(path, ", so it tells nothing of how training went")
            for path in paths
        }
        return {
            name: replace(checkpoint, weights={}, optimizer=None, phase=None)
            for name, checkpoint in found.items()
        }  # they are large

    def means(self, convention: str) -> Mapping | None:
        """`mean` over the classes and `classes`, each with the means over the cases; None where the spacing is unknown."""
        honest = self.summary["honest"]
        return {
            "honest": honest,
            "honest_mm": honest["millimetres"],
            "as_published": self.summary["as_published"],
        }[convention]


def find_result(path: Path, which: str = "best") -> Result:
    """The test that a folder stands for: itself, or the one below a run's or stage's folder; UserError where there is none, or several.

    Of several tests of a run the one on the test list counts, then the one of its last stage.
    """
    if not path.is_dir():
        raise UserError(
            f"{path}: no such folder; name a tested run, or a folder with summary.json and metrics.csv"
        )
    if (path / SUMMARY).is_file():
        return read_result(path)
    stage = path.name if any(path.glob("*.pth")) else None
    runs = [path] if stage is None else [path, path.parent]
    found = _tests(runs, "test/*", stage)
    chosen = _of_checkpoint(found, which)
    if not chosen:  # runs that were tested before each test had its own folder
        older = _tests(runs, "*_predictions", stage) + _tests(runs, "*_predictions/last", stage)
        found += older
        chosen = _of_checkpoint(older, which)
    if not chosen:
        other = f" of its {which} checkpoint" if found else ""
        raise UserError(
            f"{path}: no test{other} in it; run the test script first (code/test.py, test_ACDC.py ...), or code/evaluate.py"
        )
    chosen = _usual(chosen)
    if len(chosen) > 1:
        folders = ", ".join(str(one.folder) for one in chosen)
        raise UserError(f"{path}: holds several tests; name one of {folders}")
    return chosen[0]


def _tests(runs: Sequence[Path], pattern: str, stage: str | None) -> list[Result]:
    """The tests in the folders of that pattern below `runs`, of the stage if one is given."""
    folders = [
        folder
        for run in runs
        for folder in sorted(run.glob(pattern))
        if (folder / SUMMARY).is_file() and not ASIDE.search(folder.name)
    ]
    results = [read_result(folder) for folder in folders]
    return [result for result in results if stage in (None, result.stage)]


def _of_checkpoint(results: Sequence[Result], which: str) -> list[Result]:
    """The tests of the best or the last checkpoint; where no best one was tested, any."""
    chosen = [result for result in results if result.is_last == (which == "last")]
    if not chosen and which == "best":
        return list(results)
    return chosen


def _usual(results: Sequence[Result]) -> list[Result]:
    """Of several tests of a run those on the test list, of these those of the last stage."""
    on_test = [result for result in results if not result.folder.name.endswith("_val")]
    remaining = on_test or list(results)
    last = max(_order(result.stage) for result in remaining)
    return [result for result in remaining if _order(result.stage) == last]


def read_result(folder: Path) -> Result:
    """The test in the folder; UserError where its files are missing, damaged, another program's, or not of the same test."""
    path, rows = folder / SUMMARY, folder / METRICS
    try:
        summary = read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable as JSON ({error}); test again") from None
    if not isinstance(summary, dict) or not {"as_published", "honest", "cases"} <= summary.keys():
        raise UserError(
            f"{path}: not of a test of this project; score other predictions with code/evaluate.py"
        )
    if not rows.is_file():
        raise UserError(f"{rows}: no such file, and without it cases cannot be paired; test again")
    try:
        content = rows.read_bytes()
        lines = csv.DictReader(io.StringIO(content.decode("utf-8"), newline=""))
        table = [(csv_text(row["case"]), csv_text(row["class"]), _figures(row)) for row in lines]
        cases, classes = (tuple(dict.fromkeys(row[i] for row in table)) for i in (0, 1))
        by_place = {(case, name): figures for case, name, figures in table}
        values = {
            convention: {
                figure: np.array(
                    [[by_place[case, name][column] for name in classes] for case in cases]
                )
                for figure, column in columns.items()
            }
            for convention, columns in CONVENTIONS.items()
        }
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise UserError(f"{rows}: damaged ({type(error).__name__}: {error}); test again") from None
    if not table:
        raise UserError(f"{rows}: holds no cases; test again")
    try:
        check_summary(summary, classes)
    except ValueError as error:
        raise UserError(f"{path}: damaged, {error}; test again") from None
    if len(table) != len(cases) * len(classes) or len(cases) != summary["cases"] or not cases:
        raise UserError(
            f"{rows}: {len(cases)} cases, summary.json has {summary['cases']}; test again"
        )
    result = Result(folder, summary, cases, classes, values)
    if not _belong_together(result, content):
        raise UserError(
            f"{rows}: does not belong to the summary.json next to it, a test or evaluate.py was interrupted there; test again"
        )
    return result


def _belong_together(result: Result, metrics: bytes) -> bool:
    """Whether metrics.csv (its bytes) is the file that summary.json was written with.

    Where an older summary.json holds no hash, its means must be those of metrics.csv.
    """
    if METRICS_HASH in result.summary:
        return result.summary[METRICS_HASH] == hashlib.sha256(metrics).hexdigest()
    try:
        return all(
            _same_means(result, convention, means)
            for convention in CONVENTIONS
            if (means := result.means(convention)) is not None
        )
    except (AttributeError, KeyError, TypeError):
        return False


def _same_means(result: Result, convention: str, means: Mapping) -> bool:
    """Whether the means over the cases of metrics.csv, which has six decimals, are those of summary.json; what one of the two
    files does not hold (nan) is not compared."""
    if set(means["classes"]) != set(result.classes):
        return False
    for figure, values in result.values[convention].items():
        for number, name in enumerate(result.classes):
            mean = values[:, number].mean()
            expected = means["classes"][name][figure]
            if not np.isnan(mean) and abs(mean - expected) > ROUNDING:
                return False
    return True


def _figures(row: Mapping[str, str]) -> dict[str, float]:
    """The numbers of a row, nan where there is none. Files older than the honest columns hold the same figures for what was found."""
    columns = [column for columns in CONVENTIONS.values() for column in columns.values()]
    figures = {column: float(row[column]) if row.get(column) else np.nan for column in columns}
    if HONEST[0] not in row and row["empty_prediction"] == "0":
        figures |= {honest: figures[name] for name, honest in zip(FIGURES, HONEST, strict=True)}
    return figures


def _order(stage: str) -> int:
    return STAGES.index(stage) if stage in STAGES else 0
