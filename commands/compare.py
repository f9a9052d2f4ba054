"""From tested runs to a page: what compare.py and report.py call."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commands.any_dataset import find_data
from commands.compare_settings import CompareSettings, PageSettings, ReportSettings
from commands.runs import RunRequest, find_run
from commands.test_folder import move_results
from datasets.registry import find_dataset
from evaluation.results import write_json
from reporting import html_page as page
from reporting import words
from reporting.case_pictures import chosen_cases, panels
from reporting.groups import MEAN, Group, make_groups
from reporting.numbers import numbers
from reporting.tested_run import find_result
from utils.cli import parse
from utils.errors import UserError, writing
from utils.files import check_plain, scratch
from utils.lock import only_writer
from utils.messages import message
from utils.names import printable
from utils.pictures import colour
from utils.progress import progress
from utils.provenance import provenance

Part = Mapping[str, Any]


def compare(argv: Sequence[str] | None = None, description: str | None = None) -> None:
    """Group and compare tested runs; see `CompareSettings`."""
    run(parse(CompareSettings, argv, description=description))


@dataclass(frozen=True)
class CompareResult:
    """A comparison: the `page` (index.html), the `file` with its numbers, and these `numbers` (docs/evaluation.md)."""

    page: Path
    file: Path
    numbers: Mapping[str, Any]


def run(s: CompareSettings) -> CompareResult:
    """Compare tested runs and write the page. Raises UserError for runs without a test, or tested on other cases."""
    s.check()
    results = [find_result(path, s.which) for path in s.run]
    groups = make_groups(results, s.names)
    return write(s, groups, name="compare.json", seed=s.seed, draws=s.draws)


def report(argv: Sequence[str] | None = None, description: str | None = None) -> None:
    """Make the page of one run; see `ReportSettings`."""
    s = parse(ReportSettings, argv, description=description)
    s.check()
    folder = s.predictions or s.run or _run_folder(s)
    groups = make_groups([find_result(folder, s.which)])
    write(s, groups, name="report.json")


def write(
    s: PageSettings, groups: Sequence[Group], name: str, seed: int = 1337, draws: int = 10_000
) -> CompareResult:
    """Write index.html and its numbers, in the file `name`, to `s.output`, and report the table and the paths.

    `seed`, `draws`: of the bootstrap.
    """
    _read_checkpoints(groups)
    content = numbers(groups, seed, draws=draws, about=provenance())
    shown = _shown(groups, content) | _pictures(s, groups) | {"numbers": name}
    remedy = "free space or name another place with --output"
    with (
        only_writer(s.output, remedy),
        writing(s.output, remedy),
        scratch("page", s.output) as place,
    ):
        folder = place / "results"
        folder.mkdir()
        write_json(folder / name, content)
        page.write_page(folder / "index.html", shown)
        move_results(folder, s.output)
    html = s.output / "index.html"
    message(printable(words.table(content)))
    message(f"page: {html}    numbers: {s.output / name}")
    return CompareResult(html, file=s.output / name, numbers=content)


def _read_checkpoints(groups: Sequence[Group]) -> None:
    """Read the checkpoints of all runs, which the results then keep, under a progress bar."""
    results = [result for group in groups for result in group.results]
    with progress(results, desc="reading checkpoints", unit="run", leave=False) as bar:
        for result in bar:
            _ = result.stages


def _run_folder(s: ReportSettings) -> Path:
    """The run's folder, found as the test scripts do; reports which run was chosen for flags that were omitted."""
    if s.exp is not None:
        check_plain("exp", s.exp)
    dataset = find_data(s.dataset, s.root_path) or find_dataset("ACDC")
    folder, _, notes = find_run(dataset, s.output_root, RunRequest(exp=s.exp, labelnum=s.labelnum))
    for note in notes:
        message(note)
    return folder


def _shown(groups: Sequence[Group], content: Mapping[str, Any]) -> dict[str, Any]:
    """The values for the template, except pictures."""
    parts: Sequence[Part] = content["groups"]
    classes: Sequence[str] = content["classes"]
    names = [group.name for group in groups]
    scores = [part["figures"] for part in parts]
    conventions = page.conventions(scores)
    distances = _distances(scores)
    rows = _rows(classes)
    curves, has_class_curves = page.curve_plots(groups, classes)
    return {
        "title": words.title(groups, content["dataset"]),
        "subtitle": words.subtitle(content),
        "groups": _with_seeds(groups, parts),
        "several_seeds": any(len(group.results) > 1 for group in groups),
        "cases": len(content["cases"]),
        "rows": rows,
        "conventions": conventions,
        "main_columns": _main_columns(conventions, distances),
        "distances": distances,
        "bootstrap": content["bootstrap"],
        "notes": words.notes(groups),
        "keys": [page.key(number) for number in range(len(groups))],
        "keys_list": page.keys_list(names),
        "interval_plots": page.interval_plots(parts, rows, distances=distances),
        "case_plots": page.case_plots(groups, rows),
        "curve_plots": curves,
        "curve_keys": page.keys_list(classes if has_class_curves else names),
        "swatches": [(name, colour(number)) for number, name in enumerate(classes, 1)],
        "differing": words.differing(groups),
        "commands": _commands(content),
        "versions": words.versions(groups, content),
        "date": content["date"],
    }


def _rows(classes: Sequence[str]) -> list[dict[str, str]]:
    """The rows of the tables: the mean over the classes, and each class; for a single class no mean."""
    rows = [{"name": name, "title": name} for name in classes]
    if len(classes) > 1:
        rows.insert(0, {"name": MEAN, "title": "mean over the classes"})
    return rows


def _distances(scores: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The convention (`name`), metric and unit of the main distance: mm if every group has them, else voxels."""
    if all(one["honest_mm"] for one in scores):
        return {"name": "honest_mm", "figure": "hd95_mm", "unit": "mm"}
    return {"name": "honest", "figure": "hd95_voxel", "unit": "voxels"}


def _main_columns(
    conventions: Sequence[Mapping[str, Any]], distances: Mapping[str, str]
) -> list[Mapping[str, Any]]:
    """The columns of the first table of differences: penalised Dice and the main distance."""
    main = (("honest", "dice"), (distances["name"], distances["figure"]))
    columns = []
    for convention in conventions:
        for column in convention["columns"]:
            if (column["convention"], column["name"]) in main:
                columns.append(column)
    return columns


def _with_seeds(groups: Sequence[Group], parts: Sequence[Part]) -> list[dict[str, Any]]:
    """The groups as in compare.json, with their seeds in words."""
    return [
        {**part, "seeds": words.seeds(group)} for group, part in zip(groups, parts, strict=True)
    ]


def _commands(content: Mapping[str, Any]) -> list[str]:
    """The command of this page, then those of the tests, each once."""
    tests = [run["command"] for part in content["groups"] for run in part["runs"] if run["command"]]
    return [content["command"], *dict.fromkeys(tests)]


def _pictures(s: PageSettings, groups: Sequence[Group]) -> dict[str, Any]:
    """Pictures of the worst, median and best case.

    `pictures`: per case the word, the name, rows of panels and, if it cannot be shown, the reason (`fault`). `no_pictures`: the
    reason if no case can be shown.
    """
    if not s.pictures:
        return {"pictures": [], "no_pictures": "omitted by --no-pictures"}
    pictures = []
    cases = chosen_cases(groups).items()
    for word, number in progress(cases, desc="drawing", unit="case", leave=False):
        name = groups[0].results[0].cases[number]
        rows = []
        fault = ""
        try:
            rows = panels(groups, number, root_path=s.root_path)
        except UserError as error:
            fault = str(error)
            message(printable(f"warning: no pictures of {name}: {fault}"))
        pictures.append({"word": word, "name": name, "rows": rows, "fault": fault})
    if all(case["fault"] for case in pictures):
        return {"pictures": [], "no_pictures": pictures[0]["fault"]}
    return {"pictures": pictures, "no_pictures": ""}
