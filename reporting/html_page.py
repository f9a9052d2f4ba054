"""Render index.html from its template: tables, legends and plots."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from evaluation.metrics import Metric, Unit, metrics_in, spacing_metrics
from evaluation.tolerance import in_words
from methods.base import class_scalar
from reporting import plots, words
from reporting.groups import Group
from reporting.numbers import GroupNumbers
from reporting.plots import Curve
from reporting.scores import PairedDifference
from reporting.tested_run import Result
from utils.files import replacing

UNIT_WORDS: dict[Unit, str] = {"voxel": "voxels", "mm": "mm"}
# of each convention, by its key in compare.json: title and note of its table
TITLES = {
    "honest": (
        "Penalised, in voxels",
        "An empty prediction gets Dice and NSD 0 and the image diagonal as distance. "
        "If the truth is empty too, the score is perfect.",
    ),
    "honest_mm": ("Penalised, in mm", "As above, with distances in millimetres."),
    "as_published": (
        "Published, in voxels",
        "An empty prediction scores 0 in all metrics. For distances 0 is the best value.",
    ),
}


@dataclass(frozen=True)
class TableRow:
    """A row of a table: the mean over the classes, or a class."""

    name: str
    title: str


@dataclass(frozen=True)
class MetricColumn:
    """A column of a table: a metric of a convention, by their keys in compare.json."""

    name: str
    convention: str
    head: str
    digits: int


@dataclass(frozen=True)
class ConventionTable:
    """The table of a convention (`name`: its key in compare.json)."""

    name: str
    title: str
    note: str
    columns: Sequence[MetricColumn]


@dataclass(frozen=True)
class MainDistance:
    """The distance that is shown first, by the keys of its convention and metric."""

    convention: str
    metric: str
    unit: str


def write_page(path: Path, content: Mapping[str, Any], template: str = "page.html") -> None:
    """Render a template of this folder with `content` and write the page to `path`.

    Bytes of file names that are not valid UTF-8 appear escaped, as in messages.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"fixed": _fixed, "signed": _signed, "p": words.p_value}
    html = environment.get_template(template).render(content)
    with replacing(path) as unfinished:
        unfinished.write_text(html.lstrip() + "\n", encoding="utf-8", errors="backslashreplace")


def conventions(
    groups: Sequence[GroupNumbers], tolerances: Mapping[str, float] | None
) -> list[ConventionTable]:
    """The metric conventions that are known for every group, with the columns of their tables.

    `tolerances`: of NSD, by class, for the heads of columns; None if it is not known.
    """
    available: list[ConventionTable] = []
    for name, (title, note) in TITLES.items():
        if not all(group.scores[name] for group in groups):
            continue
        if name == "honest_mm":  # its overlaps are those of the table in voxels
            unit: Unit = "mm"
            metrics = spacing_metrics()
        else:
            unit = "voxel"
            metrics = metrics_in("voxel")
        columns = [_column(name, metric, unit, tolerances=tolerances) for metric in metrics]
        available.append(ConventionTable(name, title, note=note, columns=columns))
    return available


def interval_plots(
    groups: Sequence[GroupNumbers],
    rows: Sequence[TableRow],
    distance: MainDistance,
) -> list[plots.Plot]:
    """Plot the differences of penalised Dice and HD95 where they are known."""
    names = [row.name for row in rows]
    shown = (
        ("Dice (higher is better)", "honest", "dice"),
        (f"HD95, {distance.unit} (lower is better)", distance.convention, distance.metric),
    )
    drawn = []
    for title, convention, metric in shown:
        intervals = []
        for number, group in enumerate(groups[1:], 1):
            differences = _differences(group, convention, metric=metric, names=names)
            if differences:
                intervals.append(plots.Intervals(number, group.name, differences=differences))
        if intervals:
            plot = plots.plot_intervals(title, names, groups=intervals, reference=groups[0].name)
            drawn.append(plot)
    return drawn


def case_plots(groups: Sequence[Group], rows: Sequence[TableRow]) -> list[plots.Plot]:
    """Plot the Dice of each case: the mean over the classes, and each class."""
    cases = groups[0].results[0].cases
    dice = [group.per_case("honest", "dice") for group in groups]
    drawn = []
    for number, row in enumerate(rows):
        columns = []
        for group, scores in zip(groups, dice, strict=True):
            columns.append(plots.Column(group.name, values=scores[:, number].tolist()))
        if not any(np.isnan(column.values).any() for column in columns):
            drawn.append(plots.plot_cases(row.title, cases, columns=columns))
    return drawn


@dataclass
class TrainingCurves:
    """The curves of all runs over all stages.

    `borders`: the iterations at which stages of the first group begin.
    """

    loss: list[Curve] = field(default_factory=list)
    dice: list[Curve] = field(default_factory=list)
    borders: set[int] = field(default_factory=set)


def curve_plots(groups: Sequence[Group], classes: Sequence[str]) -> tuple[list[plots.Plot], bool]:
    """Plot training loss and validation Dice over all stages.

    For a single run also the Dice of each class.

    Also returns whether there are curves of each class.
    """
    curves = TrainingCurves()
    for number, group in enumerate(groups):
        for result in group.results:
            _add_run(curves, number, result=result)
    if not curves.loss:
        return [], False
    by_class: list[Curve] = []
    if len(groups) == 1 and len(groups[0].results) == 1 and len(classes) > 1:
        by_class = _class_curves(groups[0].results[0], classes)
    borders = sorted(curves.borders)
    drawn = []
    if curves.dice:
        plot = plots.plot_curves("Validation Dice", curves.dice, limits=(0.0, 1.0), borders=borders)
        drawn.append(plot)
    if by_class and all(curve.points for curve in by_class):
        plot = plots.plot_curves(
            "Validation Dice of each class", by_class, limits=(0.0, 1.0), borders=borders
        )
        drawn.append(plot)
    drawn.append(plots.plot_curves("Training loss", curves.loss, limits=None, borders=borders))
    return drawn, bool(by_class)


def key(number: int) -> Markup:
    """The symbol of a group, for the drawing of a legend."""
    return Markup(plots.symbol((0.0, 0.0), number, size=4.5))


def keys_list(names: Sequence[str]) -> Markup:
    """The legend of several groups; empty for one."""
    if len(names) < 2:
        return Markup("")
    items = []
    for number, name in enumerate(names):
        drawing = f'<svg class="key" viewBox="-6 -6 12 12" aria-hidden="true">{key(number)}</svg>'
        items.append(f"<li>{drawing}{escape(name)}</li>")
    return Markup(f'<ul class="keys">{"".join(items)}</ul>')


def _column(
    convention: str, metric: Metric, unit: Unit, tolerances: Mapping[str, float] | None
) -> MetricColumn:
    head = metric.title
    digits = 3
    if metric.is_length:
        head = f"{metric.title}, {UNIT_WORDS[unit]}"
        digits = 2
    if metric.has_tolerance and tolerances is not None:
        head = f"{metric.title} at {in_words(tolerances, UNIT_WORDS[unit])}"
    return MetricColumn(metric.key(unit), convention, head=head, digits=digits)


def _differences(
    group: GroupNumbers, convention: str, metric: str, names: Sequence[str]
) -> list[PairedDifference]:
    """Return the differences of the rows `names`; empty unless all are known."""
    by_row = (group.differences or {}).get(convention)
    if by_row is None:
        return []
    values = [by_row[name][metric] for name in names]
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return []
    return known


def _history(result: Result) -> tuple[list[tuple[int, Mapping[str, float]]], list[int]]:
    """The validations of all stages, and the iterations at which stages begin.

    Iterations are counted over all stages.
    """
    history = []
    starts = []
    start = 0
    for stage in result.stages.values():
        progress = stage.progress or {"history": [], "step": 0}
        starts.append(start)
        history += [(start + row["step"], row) for row in progress["history"]]
        start += progress["step"]
    return history, starts


def _add_run(curves: TrainingCurves, number: int, result: Result) -> None:
    """Add the curves of one run in the colour of its group `number`."""
    history, starts = _history(result)
    if not curves.loss or curves.loss[0].colour == number:
        curves.borders.update(start for start in starts if start > 0)
    if not history:
        return
    curves.loss.append(Curve(number, [(step, row["loss"]) for step, row in history]))
    scores = [(step, row["score"]) for step, row in history if "score" in row]
    if scores:  # a run with --select last has no validation
        curves.dice.append(Curve(number, scores))


def _class_curves(result: Result, classes: Sequence[str]) -> list[Curve]:
    """Validation Dice of each class; without points where the checkpoints do not record it."""
    history, _ = _history(result)
    curves = []
    for number, name in enumerate(classes):
        column = class_scalar("dice", name)
        points = [(step, row[column]) for step, row in history if column in row]
        curves.append(Curve(number, points))
    return curves


def _fixed(value: float | None, digits: int) -> str:
    if value is None:
        return "–"
    return f"{value:.{digits}f}"


def _signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}".replace("-", "−")
