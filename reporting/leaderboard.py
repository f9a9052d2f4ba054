"""The numbers of a leaderboard, from the records of a benchmark's cells.

A table holds the methods of one data set and number of labelled cases, with one way of selecting
the networks, best first. A method's score of a case is the mean over its seeds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from scipy.stats import rankdata  # pyright: ignore[reportMissingTypeStubs]

from evaluation.metrics import Metric, Unit, metrics_in
from evaluation.statistics import by_patient, holm
from methods.registry import run_title
from reporting.groups import SEED_SETTINGS, patient
from reporting.leaderboard_table import (
    Bootstrap,
    Costs,
    Leaderboard,
    LeaderboardRow,
    LeaderboardTable,
    MetricColumn,
    RankInterval,
)
from reporting.record import SELECTIONS, CellRecord, CellTest, cell_name
from reporting.scores import (
    LEVEL,
    MetricSummary,
    PairedDifference,
    paired_difference,
    summarise_seeds,
)
from utils.errors import UserError

MAIN = "dice"
PROTOCOL = ("patch_size", "batch_size", "labeled_bs", "val_every", "select", "amp")
"""Options that methods should share if their scores are to be compared."""


@dataclass(frozen=True)
class Entry:
    """A method in a table.

    `cells`: its records by seed, those of a seed in the order of their folds, which together test
    every case once. `selection`: the test of each record that counts.
    """

    method: str
    cells: Mapping[int, Sequence[CellRecord]]
    selection: str

    @property
    def records(self) -> list[CellRecord]:
        """Its records, seed by seed."""
        return list(chain.from_iterable(self.cells.values()))

    @property
    def tests(self) -> list[CellTest]:
        """The test of each record."""
        return [record.tests[self.selection] for record in self.records]

    def cases(self, seed: int) -> list[str]:
        """Return the cases of a seed, fold by fold."""
        return list(
            chain.from_iterable(record.tests[self.selection].cases for record in self.cells[seed])
        )

    def scores(self, metric: str) -> list[np.ndarray]:
        """Return the scores of each seed (cases, classes)."""
        return [
            np.concatenate([record.tests[self.selection].array(metric) for record in records])
            for records in self.cells.values()
        ]

    def per_case(self, metric: str) -> np.ndarray:
        """Return the mean over classes of each seed and case (seeds, cases)."""
        return np.array([scores.mean(1) for scores in self.scores(metric)])

    def seed_means(self, metric: str) -> list[float]:
        """Return the mean of each seed over cases, then classes."""
        return [float(scores.mean(0).mean()) for scores in self.scores(metric)]


def complete_seeds(records: Sequence[CellRecord]) -> tuple[list[CellRecord], list[str]]:
    """Return the records of seeds that have a record of each fold, and the names of other seeds.

    Without folds, all seeds are complete.
    """
    groups: dict[tuple[str, int, str, int, int], list[CellRecord]] = {}
    for record in records:
        key = (record.dataset, record.labelnum, record.method, record.seed, record.folds)
        groups.setdefault(key, []).append(record)
    complete: list[CellRecord] = []
    missing: list[str] = []
    for (_, labelnum, method, seed, folds), group in groups.items():
        if len(group) < folds:
            name = cell_name(method, labelnum, seed=seed)
            missing.append(f"{name} ({len(group)} of {folds} folds)")
        else:
            complete += group
    return complete, missing


def leaderboard(
    records: Sequence[CellRecord],
    baseline: str,
    bootstrap: Bootstrap,
    costs: Costs,
    missing: Sequence[str] = (),
) -> Leaderboard:
    """Return the tables of the records.

    `baseline`: the method that the others are compared with; if a table does not have it, its best
    method. `costs`: by method, what a step costs (time, passes, memory), relative to any method.
    `missing`: names of cells without a result. Raises UserError where cells of a table do not fit
    each other.
    """
    _check_options(records)
    relative_costs = _relative_costs(costs, baseline)
    tables: list[LeaderboardTable] = []
    incomplete: list[str] = []
    notes: list[str] = []
    keys = dict.fromkeys((record.dataset, record.labelnum) for record in records)
    for dataset, labelnum in sorted(keys):
        of_table = [
            record for record in records if (record.dataset, record.labelnum) == (dataset, labelnum)
        ]
        notes += _notes(of_table)
        for selection in SELECTIONS:
            incomplete += _incomplete(of_table, selection)
            entries = _entries(of_table, selection)
            if entries:
                tables.append(_table(entries, baseline, bootstrap, costs=relative_costs))
    return Leaderboard(
        bootstrap=bootstrap,
        costs=relative_costs,
        options=_common_options(records),
        commits=sorted({str(record.trained_commit) for record in records}),
        tables=tables,
        missing=[*missing, *incomplete],
        notes=notes,
    )


def _relative_costs(costs: Costs, baseline: str) -> Costs:
    """Return the costs relative to those of the baseline; unchanged if it has none."""
    reference = costs.get(baseline, {})
    relative: dict[str, dict[str, float]] = {}
    for method, of_method in costs.items():
        relative[method] = {}
        for name, cost in of_method.items():
            relative[method][name] = cost / reference.get(name, 1.0)
    return relative


def _by_method(records: Sequence[CellRecord]) -> dict[str, list[CellRecord]]:
    """Return the records of each method, in the order of the methods' names."""
    by_method: dict[str, list[CellRecord]] = {}
    for record in sorted(records, key=lambda record: record.method):
        by_method.setdefault(record.method, []).append(record)
    return by_method


def _incomplete(records: Sequence[CellRecord], selection: str) -> list[str]:
    """Return the names of cells that lack a test which other cells of their method have."""
    incomplete: list[str] = []
    for method, of_method in _by_method(records).items():
        without = [record for record in of_method if selection not in record.tests]
        if len(without) == len(of_method):
            continue
        for record in without:
            name = cell_name(method, record.labelnum, seed=record.seed, fold=record.fold)
            incomplete.append(f"{name} ({SELECTIONS[selection]})")
    return incomplete


def _notes(records: Sequence[CellRecord]) -> list[str]:
    """Return what readers of a table have to know, in sentences."""
    notes = [_protocol_note(records, option) for option in PROTOCOL]
    notes += [_data_note(records), _seeds_note(records)]
    return [note for note in notes if note]


def _protocol_note(records: Sequence[CellRecord], option: str) -> str:
    """Name the methods with each value of an option; empty if all have the same value."""
    titles_by_value: dict[str, list[str]] = {}
    for record in records:
        titles = titles_by_value.setdefault(str(record.options.get(option)), [])
        title = run_title(record.options)
        if title not in titles:
            titles.append(title)
    if len(titles_by_value) == 1:
        return ""
    values = [f"{value} ({', '.join(titles)})" for value, titles in titles_by_value.items()]
    return f"The runs differ in --{option}: {'; '.join(values)}."


def _data_note(records: Sequence[CellRecord]) -> str:
    """Report tests of different files with the same names; empty if there are none.

    Folds test different files by design.
    """
    hashes: set[str] = set()
    for record in records:
        hashes.update(test.data for test in record.tests.values() if test.data is not None)
    if len(hashes) < 2 or records[0].folds:
        return ""
    return "The test files of some runs differ, although their cases have equal names."


def _seeds_note(records: Sequence[CellRecord]) -> str:
    """Name the methods with one seed; empty if there are none, or if there is only one method."""
    by_method = _by_method(records)
    single: list[str] = []
    for of_method in by_method.values():
        if len({record.seed for record in of_method}) == 1:
            single.append(run_title(of_method[0].options))
    if not single or len(by_method) == 1:
        return ""
    return (
        f"Only one seed: {', '.join(single)}. The intervals of their ranks do not show how much "
        "another seed would change the rank."
    )


def _check_options(records: Sequence[CellRecord]) -> None:
    """Raise UserError if cells of one method differ in more than their seed and fold."""
    first: dict[tuple[str, int, str], CellRecord] = {}
    columns: set[tuple[str, int, str, int, int | None]] = set()
    for record in records:
        key = (record.dataset, record.labelnum, record.method)
        column = (*key, record.seed, record.fold)
        if column in columns:
            raise UserError(
                f"{record.method}, {record.labelnum} labels, seed {record.seed}: there are two "
                "records; name each once"
            )
        columns.add(column)
        other = first.setdefault(key, record)
        if record.folds != other.folds:
            raise UserError(
                f"{record.method}: records of {other.folds} and of {record.folds} folds; make a "
                "leaderboard of each"
            )
        for name in sorted(record.options.keys() | other.options.keys()):
            value = record.options.get(name)
            if name not in SEED_SETTINGS and value != other.options.get(name):
                raise UserError(
                    f"{record.method}: seeds {other.seed} and {record.seed} were trained with "
                    f"--{name} {other.options.get(name)} and {value}; train one of them again"
                )
        if record.init_sha256 != other.init_sha256 or _lengths(record) != _lengths(other):
            raise UserError(
                f"{record.method}: seeds {other.seed} and {record.seed} were trained with "
                "different stages or different --init; train one of them again"
            )


def _lengths(record: CellRecord) -> list[tuple[str, int]]:
    """Return the name and the iterations of each stage."""
    return [(stage["name"], stage["iterations"]) for stage in record.stages]


def _entries(records: Sequence[CellRecord], selection: str) -> list[Entry]:
    """Return the methods that have that test for each of their seeds, in the order of names."""
    entries: list[Entry] = []
    for method, of_method in _by_method(records).items():
        of_method.sort(key=lambda record: (record.seed, record.fold or 0))
        cells: dict[int, list[CellRecord]] = {}
        for record in of_method:
            cells.setdefault(record.seed, []).append(record)
        if all(selection in record.tests for record in of_method):
            entries.append(Entry(method, cells, selection))
    if entries:
        _check_cases(entries)
    return entries


def _cases(entry: Entry) -> list[str]:
    """Return the cases of a method, which are the same for each of its seeds."""
    return entry.cases(next(iter(entry.cells)))


def _check_cases(entries: Sequence[Entry]) -> None:
    """Raise UserError if a seed tests a case twice, or if two seeds differ in their cases, classes
    or list.
    """
    first = entries[0]
    cases = _cases(first)
    reference = first.tests[0]
    if len(set(cases)) < len(cases):
        raise UserError(
            f"{first.method}: two folds tested the same case, so the folds were changed between "
            "its runs; run the benchmark again in another folder"
        )
    for entry in entries:
        for seed, records in entry.cells.items():
            is_same = entry.cases(seed) == cases
            for record in records:
                test = record.tests[entry.selection]
                if test.classes != reference.classes or test.split != reference.split:
                    is_same = False
            if not is_same:
                raise UserError(
                    f"{entry.method}, seed {seed}: the tested cases or classes differ from "
                    f"those of {first.method}; test all runs on the same list"
                )


def _table(
    entries: Sequence[Entry],
    baseline: str,
    bootstrap: Bootstrap,
    costs: Costs,
) -> LeaderboardTable:
    ordered = sorted(
        entries, key=lambda entry: (-float(np.mean(entry.seed_means(MAIN))), entry.method)
    )
    record = entries[0].records[0]
    test = entries[0].tests[0]
    cases = _cases(entries[0])
    by_name = {entry.method: entry for entry in ordered}
    reference = by_name.get(baseline, ordered[0])
    unit = _unit(ordered)
    columns = _columns(ordered, unit)
    first_to_second = None
    if len(ordered) > 1:
        first_to_second = _difference(ordered[0], ordered[1], bootstrap)
    return LeaderboardTable(
        dataset=record.dataset,
        labelnum=record.labelnum,
        selection=entries[0].selection,
        unit=unit,
        baseline=reference.method,
        cases=len(cases),
        patients=len({patient(case) for case in cases}),
        classes=test.classes,
        split=test.split,
        folds=record.folds,
        metrics=columns,
        rows=_rows(ordered, reference, columns=columns, bootstrap=bootstrap, costs=costs),
        first_to_second=first_to_second,
    )


def _columns(entries: Sequence[Entry], unit: Unit) -> list[MetricColumn]:
    """Return the metrics that every test has."""
    columns: list[MetricColumn] = []
    for metric in metrics_in(unit):
        if all(_has(entry, metric, unit) for entry in entries):
            columns.append(_column(metric, unit))
    return columns


def _column(metric: Metric, unit: Unit) -> MetricColumn:
    """Return a metric with its title; lengths have fewer decimals."""
    title = metric.title
    digits = 3
    if metric.is_length:
        title = f"{title}, {unit}"
        digits = 1
    return MetricColumn(metric.key(unit), title, digits=digits)


def _unit(entries: Sequence[Entry]) -> Unit:
    """Return mm if every test has distances in mm, otherwise voxel."""
    for test in chain.from_iterable(entry.tests for entry in entries):
        if "hd95_mm" not in test.values:
            return "voxel"
    return "mm"


def _has(entry: Entry, metric: Metric, unit: Unit) -> bool:
    return all(metric.key(unit) in test.values for test in entry.tests)


def _rows(
    entries: Sequence[Entry],
    reference: Entry,
    columns: Sequence[MetricColumn],
    bootstrap: Bootstrap,
    costs: Costs,
) -> list[LeaderboardRow]:
    """Return the rows of a table in the order of `entries`."""
    others = [entry for entry in entries if entry is not reference]
    differences = {entry.method: _difference(entry, reference, bootstrap) for entry in others}
    corrected = holm([difference.p for difference in differences.values()])
    p_holm = dict(zip(differences, corrected, strict=True))
    rows: list[LeaderboardRow] = []
    for entry, ranks in zip(entries, _ranks(entries, bootstrap), strict=True):
        first = entry.records[0]
        row = LeaderboardRow(
            method=entry.method,
            title=run_title(first.options),
            seeds=list(entry.cells),
            iterations=[stage["iterations"] for stage in first.stages],
            selected_at=[test.iteration for test in entry.tests],
            empty_predictions=sum(test.empty_predictions for test in entry.tests),
            scores=_scores(entry, columns),
            classes=_class_means(entry),
            ranks=ranks,
            cost=costs.get(entry.method, {}),
            difference=differences.get(entry.method),
            p_holm=p_holm.get(entry.method),
        )
        rows.append(row)
    return rows


def _scores(entry: Entry, columns: Sequence[MetricColumn]) -> dict[str, MetricSummary]:
    """Return the metrics of a method over its seeds, by key."""
    return {column.key: summarise_seeds(entry.seed_means(column.key)) for column in columns}


def _class_means(entry: Entry) -> dict[str, float]:
    """Return the mean Dice of each class over cases and seeds."""
    means: dict[str, float] = {}
    for number, name in enumerate(entry.tests[0].classes):
        means[name] = float(np.mean([one[:, number].mean() for one in entry.scores(MAIN)]))
    return means


def _difference(entry: Entry, reference: Entry, bootstrap: Bootstrap) -> PairedDifference:
    """Return the paired difference of Dice per case, each the mean over the seeds."""
    cases = _cases(entry)
    difference = entry.per_case(MAIN).mean(0) - reference.per_case(MAIN).mean(0)
    patients = [patient(case) for case in cases]
    return paired_difference(difference, patients, seed=bootstrap.seed, draws=bootstrap.draws)


def _ranks(entries: Sequence[Entry], bootstrap: Bootstrap) -> list[RankInterval]:
    """Return for each method how stable its rank is when patients and seeds are drawn again."""
    patients = [patient(case) for case in _cases(entries[0])]
    generator = np.random.default_rng(bootstrap.seed)
    sums: list[np.ndarray] = []
    counts = np.ones(0)
    for entry in entries:
        rows: list[np.ndarray] = []
        for scores in entry.per_case(MAIN):
            row, counts = by_patient(scores, patients)
            rows.append(row)
        sums.append(np.array(rows))
    ranks = np.empty((bootstrap.rank_draws, len(entries)))
    for draw in range(bootstrap.rank_draws):
        drawn = generator.integers(len(counts), size=len(counts))
        means = np.empty(len(entries))
        for number, of_method in enumerate(sums):
            seeds = generator.integers(len(of_method), size=len(of_method))
            means[number] = of_method[seeds][:, drawn].sum() / counts[drawn].sum() / len(seeds)
        ranks[draw] = rankdata(-means, method="min")
    return [_rank_interval(column) for column in ranks.T]


def _rank_interval(ranks: np.ndarray) -> RankInterval:
    """Summarise the ranks of a method (draws,)."""
    tail = (1 - LEVEL) / 2
    return RankInterval(
        low=float(np.quantile(ranks, tail, method="lower")),
        high=float(np.quantile(ranks, 1 - tail, method="higher")),
        first=float((ranks == 1).mean()),
    )


def _common_options(records: Sequence[CellRecord]) -> dict[str, Any]:
    """Return the options that all cells share."""
    common = dict(records[0].options)
    for record in records[1:]:
        for name in list(common):
            if record.options.get(name) != common[name]:
                del common[name]
    return common
