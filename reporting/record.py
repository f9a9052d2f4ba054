"""The record of a benchmark's cell: what was trained, and the scores of each case, as JSON.

Scores are penalised (docs/evaluation.md), so that an empty prediction is the worst one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.metrics import metrics_in
from evaluation.results import EvaluationResult
from evaluation.scores import ClassScore
from utils.errors import UserError
from utils.json_file import read_json
from utils.provenance import provenance

FORMAT = "fewlabels-cell/1"
DIGITS = 5
SELECTIONS: Mapping[str, str] = {
    "best": "selected on the validation list",
    "last": "last checkpoint",
    "test_selected": "test-selected, optimistic",
}
"""The ways in which a cell's network is chosen, with their titles."""


def column_name(seed: int, fold: int | None = None) -> str:
    """Return fold and seed of a cell, for names."""
    if fold is None:
        return f"seed{seed}"
    return f"fold{fold}_seed{seed}"


def cell_name(method: str, labelnum: int, seed: int, fold: int | None = None) -> str:
    """Return the name of a cell in messages and of its files."""
    return f"{method}_{labelnum}_{column_name(seed, fold)}"


@dataclass(frozen=True)
class CellTest:
    """The test of one network.

    `values`: of each metric, by its name in files, the penalised scores (cases, classes).

    `iteration`: of its stage. `selection`: how the network was selected, in words. `data`: hash of
    the names and files of the cases; None in records of older versions.
    """

    iteration: int
    selection: str
    sha256: str
    split: str
    cases: list[str]
    classes: list[str]
    values: dict[str, list[list[float]]]
    empty_predictions: int
    data: str | None = None

    def array(self, metric: str) -> np.ndarray:
        """Return the scores of a metric (cases, classes)."""
        return np.array(self.values[metric], float)

    def mean(self, metric: str) -> float:
        """Return the mean over the cases, then over the classes."""
        return float(self.array(metric).mean(0).mean())


@dataclass
class CellRecord:
    """A finished cell of a benchmark.

    `options`: those that decide what a run computes. `stages`: name, iterations and history of each
    stage. `seconds`: time of training and tests. `tests`: by the keys of `SELECTIONS`.
    `test_dice`: mean Dice on the test list of every validated network by its iteration, if
    test-selected results were asked for. `trained_commit`: of the program that began the run.
    `about`: versions, commit and machine of the tests. `fold`: number of the tested fold, of
    `folds`; None if the tests are on the test list of the data set. `init_sha256`: of the
    checkpoint that the run started from, None without --init.
    """

    dataset: str
    method: str
    labelnum: int
    seed: int
    options: dict[str, Any]
    stages: list[dict[str, Any]]
    seconds: float
    tests: dict[str, CellTest]
    test_dice: dict[str, float] = field(default_factory=dict[str, float])
    trained_commit: str | None = None
    about: dict[str, Any] = field(default_factory=provenance)
    fold: int | None = None
    folds: int = 0
    init_sha256: str | None = None

    def plain(self) -> dict[str, Any]:
        """Return the record as JSON types."""
        return {"format": FORMAT, **asdict(self)}


def tested(result: EvaluationResult, iteration: int) -> CellTest:
    """Return the part of a record that a test of a checkpoint fills."""
    cases = list(dict.fromkeys(score.case for score in result.scores))
    classes = list(dict.fromkeys(score.class_name for score in result.scores))
    has_spacing = all(score.penalised_mm is not None for score in result.scores)
    values: dict[str, list[list[float]]] = {}
    for score in result.scores:
        case = cases.index(score.case)
        number = classes.index(score.class_name)
        for metric, value in _penalised(score, with_mm=has_spacing).items():
            rows = values.setdefault(metric, [[0.0] * len(classes) for _ in cases])
            rows[case][number] = round(value, DIGITS)
    checkpoint = result.summary["checkpoint"]
    return CellTest(
        iteration=iteration,
        selection=checkpoint["selection"],
        sha256=checkpoint["sha256"],
        split=result.summary["split"],
        cases=cases,
        classes=classes,
        values=values,
        empty_predictions=result.summary["honest"]["empty_predictions"],
        data=result.summary["made_with"]["data"],
    )


def _penalised(score: ClassScore, with_mm: bool) -> dict[str, float]:
    """Return the penalised scores by their names in files, lengths in voxels and, if the spacing of
    every case is known, in mm.
    """
    named: dict[str, float] = {}
    for metric in metrics_in("voxel"):
        named[metric.key("voxel")] = score.penalised.values[metric.name]
    if with_mm and score.penalised_mm is not None:
        for metric in metrics_in("mm"):
            named[metric.key("mm")] = score.penalised_mm.values[metric.name]
    return named


def read_record(path: Path) -> CellRecord:
    """Read a record. Raises UserError if the file is missing, damaged or something else."""
    try:
        content = read_json(path)
        if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
            raise ValueError(f'its "format" is not {FORMAT}')
        content["tests"] = {key: CellTest(**test) for key, test in content["tests"].items()}
        return CellRecord(**content)
    except FileNotFoundError:
        raise UserError(
            f"{path}: does not exist; name the records/ folder of a benchmark or files in it"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: not a record of a benchmark ({error}); delete it and run the benchmark again"
        ) from None


def read_records(sources: Sequence[Path]) -> list[CellRecord]:
    """Read records from files and from folders of them, in the order of their names.

    Raises UserError where there is none.
    """
    records: list[CellRecord] = []
    for source in sources:
        paths = [source]
        if source.is_dir():
            # Names that begin with a dot are unfinished files of a killed process.
            paths = sorted(source.glob("[!.]*.json"))
        if not paths:
            raise UserError(f"{source}: holds no records (*.json); name the folder `records`")
        records += [read_record(path) for path in paths]
    return records
