"""The content of a leaderboard: tables, their rows, and the same as JSON types."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

from evaluation.metrics import Unit
from reporting.scores import LEVEL, MetricSummary, PairedDifference

TEST = (
    "two-sided Wilcoxon signed-rank test of the patients' mean differences, corrected over the "
    "methods of a table by Holm's method"
)
Costs: TypeAlias = Mapping[str, Mapping[str, float]]
"""What a step costs, by method and name of the cost."""


@dataclass(frozen=True)
class Bootstrap:
    """Numbers of the bootstrap over patients. `rank_draws`: of the ranks, which also draw seeds."""

    seed: int = 1337
    draws: int = 10_000
    rank_draws: int = 2_000


@dataclass(frozen=True)
class MetricColumn:
    """A metric of a table: name in files (`key`), title and decimals (`digits`)."""

    key: str
    title: str
    digits: int


@dataclass(frozen=True)
class RankInterval:
    """How stable the rank of a method is when patients and seeds are drawn again.

    `low`, `high`: interval of its rank, 1 the best, which equal methods share; `first`: share of
    the draws where it is first.
    """

    low: float
    high: float
    first: float


@dataclass(frozen=True)
class LeaderboardRow:
    """A method of a table.

    `iterations`: of each stage. `selected_at`: iteration of the tested network of each record.
    `scores`: of each metric by its key. `classes`: mean Dice of each class. `cost`: of a step, by
    name. `difference`: to the baseline, with `p_holm`; both None for the baseline.
    """

    method: str
    title: str
    seeds: Sequence[int]
    iterations: Sequence[int]
    selected_at: Sequence[int]
    empty_predictions: int
    scores: Mapping[str, MetricSummary]
    classes: Mapping[str, float]
    ranks: RankInterval
    cost: Mapping[str, float]
    difference: PairedDifference | None
    p_holm: float | None

    def plain(self) -> dict[str, Any]:
        """Return the row as JSON types. The baseline has no entry `difference`."""
        row = asdict(self)
        del row["p_holm"]
        if self.difference is None:
            del row["difference"]
        else:
            row["difference"]["p_holm"] = self.p_holm
        return row


@dataclass(frozen=True)
class LeaderboardTable:
    """The methods of one data set and number of labelled cases, with one selection, best first.

    `cases`, `patients`: how many were tested, in `split` or, where `folds` is not 0, in the folds.
    `first_to_second`: difference of the two best methods; None if there is only one method.
    """

    dataset: str
    labelnum: int
    selection: str
    unit: Unit
    baseline: str
    cases: int
    patients: int
    classes: Sequence[str]
    split: str
    folds: int
    metrics: Sequence[MetricColumn]
    rows: Sequence[LeaderboardRow]
    first_to_second: PairedDifference | None

    def plain(self) -> dict[str, Any]:
        """Return the table as JSON types."""
        table = asdict(self)
        table["rows"] = [row.plain() for row in self.rows]
        if self.first_to_second is None:
            del table["first_to_second"]
        return table


@dataclass(frozen=True)
class Leaderboard:
    """All tables.

    `costs`: by method, what a step costs. `options`: those that all runs share. `commits`: of the
    programs that trained. `missing`: names of cells without a result. `notes`: what readers have
    to know.
    """

    bootstrap: Bootstrap
    costs: Costs
    options: Mapping[str, Any]
    commits: Sequence[str]
    tables: Sequence[LeaderboardTable]
    missing: Sequence[str] = ()
    notes: Sequence[str] = ()

    def plain(self) -> dict[str, Any]:
        """Return the content of leaderboard.json."""
        return {
            "level": LEVEL,
            "bootstrap": asdict(self.bootstrap),
            "test": TEST,
            "costs": {method: dict(cost) for method, cost in self.costs.items()},
            "options": dict(self.options),
            "commits": list(self.commits),
            "tables": [table.plain() for table in self.tables],
            "missing": list(self.missing),
            "notes": list(self.notes),
        }
