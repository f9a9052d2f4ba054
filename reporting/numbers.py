"""All numbers of a comparison, and the same as compare.json holds them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from evaluation.results import NSD_TOLERANCE
from reporting.groups import (
    Differences,
    Group,
    Summaries,
    differences_to,
    group_scores,
    patient,
    tolerances_of,
)
from reporting.scores import LEVEL, MetricSummary, PairedDifference
from reporting.tested_run import Result
from utils.names import MEAN_OF_CLASSES

WILCOXON = (
    "two-sided signed-rank test of the patients' mean differences, zero differences omitted, not "
    "corrected for multiple comparisons"
)


@dataclass(frozen=True)
class RunNumbers:
    """A tested run: its penalised Dice (mean over the classes), its checkpoint and its origin."""

    folder: str
    seed: int | None
    dice: float
    empty_predictions: int
    selection: str
    checkpoint: str | None
    sha256: str | None
    command: str | None
    date: str | None
    versions: Mapping[str, str | None] | None
    git_commit: str | None
    machine: str | None


@dataclass(frozen=True)
class GroupNumbers:
    """A group with its runs, its scores and its differences to the first group, by convention.

    A convention is None where its scores or differences are not known. `differences`: None for the
    first group.
    """

    group: Group
    runs: Sequence[RunNumbers]
    scores: Mapping[str, Summaries | None]
    differences: Mapping[str, Differences | None] | None

    @property
    def name(self) -> str:
        """The name of the group."""
        return self.group.name

    @property
    def main_dice(self) -> MetricSummary:
        """Penalised Dice, mean over the classes, which every test has."""
        summaries = self.scores["honest"]
        assert summaries is not None
        summary = summaries[MEAN_OF_CLASSES]["dice"]
        assert summary is not None
        return summary

    @property
    def main_difference(self) -> PairedDifference | None:
        """Difference of penalised Dice, mean over the classes; None if it is not known."""
        differences = (self.differences or {}).get("honest")
        if differences is None:
            return None
        return differences[MEAN_OF_CLASSES]["dice"]

    def plain(self) -> dict[str, Any]:
        """Return the group as JSON types."""
        content: dict[str, Any] = {
            "name": self.name,
            "seeds": self.group.seeds,
            "settings": self.group.traits,
            "runs": [asdict(run) for run in self.runs],
            "figures": _plain(self.scores),
        }
        if self.differences is not None:
            content["differs"] = self.group.differs
            content["against_first"] = _plain(self.differences)
        return content


@dataclass(frozen=True)
class BootstrapNumbers:
    """How the intervals were computed. `units`: number of patients, which are drawn."""

    draws: int
    seed: int
    level: float
    unit: str
    units: int


@dataclass(frozen=True)
class Comparison:
    """The numbers of all groups, which were tested on the same cases.

    `tolerances`: of NSD, by class. `about`: provenance of the process that compared.
    """

    dataset: str | None
    split: str | None
    cases: Sequence[str]
    classes: Sequence[str]
    groups: Sequence[GroupNumbers]
    tolerances: Mapping[str, float] | None
    bootstrap: BootstrapNumbers
    about: Mapping[str, Any]

    def plain(self) -> dict[str, Any]:
        """Return the content of compare.json."""
        return {
            "dataset": self.dataset,
            "split": self.split,
            "cases": list(self.cases),
            "classes": list(self.classes),
            NSD_TOLERANCE: self.tolerances,
            "groups": [group.plain() for group in self.groups],
            "bootstrap": asdict(self.bootstrap),
            "wilcoxon": WILCOXON,
            **self.about,
        }


def compare_groups(
    groups: Sequence[Group], seed: int, draws: int, about: Mapping[str, Any]
) -> Comparison:
    """Collect each group's runs, scores and differences to the first group.

    `seed`, `draws`: of the bootstrap. `about`: provenance of this process.
    """
    parts: list[GroupNumbers] = []
    for group in groups:
        differences = None
        if parts:
            differences = differences_to(group, groups[0], seed=seed, draws=draws)
        part = GroupNumbers(
            group=group,
            runs=[_run(result) for result in group.results],
            scores=group_scores(group),
            differences=differences,
        )
        parts.append(part)
    first = groups[0].results[0]
    patients = {patient(case) for case in first.cases}
    return Comparison(
        dataset=first.summary.get("dataset"),
        split=first.summary.get("split"),
        cases=first.cases,
        classes=first.classes,
        groups=parts,
        tolerances=tolerances_of(groups),
        bootstrap=BootstrapNumbers(
            draws=draws, seed=seed, level=LEVEL, unit="patients", units=len(patients)
        ),
        about=about,
    )


def _run(result: Result) -> RunNumbers:
    penalised = result.summary["honest"]
    checkpoint = result.checkpoint
    return RunNumbers(
        folder=str(result.folder),
        seed=result.settings.get("seed"),
        dice=penalised["mean"]["dice"],
        empty_predictions=penalised["empty_predictions"],
        selection=checkpoint.get("selection", "not known: predictions of another program"),
        checkpoint=checkpoint.get("path"),
        sha256=checkpoint.get("sha256"),
        command=result.summary.get("command"),
        date=result.summary.get("date"),
        versions=result.summary.get("versions"),
        git_commit=result.summary.get("git_commit"),
        machine=result.summary.get("machine"),
    )


def _plain(tables: Mapping[str, Summaries | Differences | None]) -> dict[str, Any]:
    """Return the scores or differences of each convention as JSON types."""
    content: dict[str, Any] = {}
    for convention, rows in tables.items():
        content[convention] = None
        if rows is not None:
            content[convention] = {name: _plain_row(row) for name, row in rows.items()}
    return content


def _plain_row(
    row: Mapping[str, MetricSummary | None] | Mapping[str, PairedDifference | None],
) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for metric, score in row.items():
        content[metric] = None
        if score is not None:
            content[metric] = asdict(score)
    return content
