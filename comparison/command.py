"""From tested runs to a page: the programs behind compare.py and report.py."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comparison import page, words
from comparison.groups import MEAN, Group, make_groups
from comparison.numbers import numbers
from comparison.pictures import chosen_cases, panels
from comparison.results import find_result
from comparison.settings import CompareSettings, PageSettings, ReportSettings
from programs.generic import find_data
from programs.runs import Wanted, find_run
from programs.test_folder import move_results
from recipes.registry import find_page
from training.results import write_json
from utils.cli import parse
from utils.errors import UserError, writing
from utils.files import check_plain, scratch
from utils.lock import only_writer
from utils.messages import message
from utils.names import printable
from utils.pictures import colour
from utils.progress import progress
from utils.provenance import provenance


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
    """Compare tested runs and write the page. Raises UserError where a run is not tested, or on other cases."""
    s.check()
    groups = make_groups([find_result(path, s.which) for path in s.run], s.names)
    return write(s, groups, "compare.json", seed=s.seed, draws=s.draws)


def report(argv: Sequence[str] | None = None, description: str | None = None) -> None:
    """The page of one run; see `ReportSettings`."""
    s = parse(ReportSettings, argv, description=description)
    s.check()
    write(
        s,
        make_groups([find_result(s.predictions or s.run or _run_folder(s), s.which)]),
        "report.json",
    )


def write(
    s: PageSettings, groups: Sequence[Group], name: str, seed: int = 1337, draws: int = 10_000
) -> CompareResult:
    """Write index.html and its numbers, in a file of that name, below `s.output`."""
    with progress(
        [one for group in groups for one in group.results],
        desc="reading checkpoints",
        unit="run",
        leave=False,
    ) as bar:
        for result in bar:
            result.stages  # noqa: B018 (kept from now on)
    content = numbers(groups, seed, draws, provenance())
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
    message(printable(words.table(content)))
    message(f"the page: {s.output / 'index.html'}    its numbers: {s.output / name}")
    return CompareResult(s.output / "index.html", file=s.output / name, numbers=content)


def _run_folder(s: ReportSettings) -> Path:
    """The run's folder, by the rules of the test scripts; prints what the flags left open."""
    if s.exp is not None:
        check_plain("exp", s.exp)
    data = find_data(s.dataset, s.root_path) or find_page("ACDC")
    folder, _, notes = find_run(data, s.output_root, Wanted(exp=s.exp, labelnum=s.labelnum))
    for note in notes:
        message(note)
    return folder


def _shown(groups: Sequence[Group], content: dict) -> dict:
    """What the template is given, but for pictures."""
    parts, classes, names = content["groups"], content["classes"], [group.name for group in groups]
    mine = [part["figures"] for part in parts]
    rows = [
        {"name": name, "title": "mean over the classes" if name == MEAN else name}
        for name in (MEAN, *classes)
    ]
    rows = rows[1:] if len(classes) == 1 else rows
    mm = all(one["honest_mm"] for one in mine)
    distances = {
        "name": "honest_mm" if mm else "honest",
        "figure": "hd95_mm" if mm else "hd95_voxel",
        "unit": "mm" if mm else "voxels",
    }
    columns = [column for convention in page.conventions(mine) for column in convention["columns"]]
    main = [
        column
        for column in columns
        if (column["convention"], column["name"])
        in (("honest", "dice"), tuple(distances.values())[:2])
    ]
    curves, by_class = page.curve_plots(groups, classes)
    return {
        "title": words.title(groups, content["dataset"]),
        "subtitle": words.subtitle(content),
        "groups": [
            {**part, "seeds": words.seeds(group)} for group, part in zip(groups, parts, strict=True)
        ],
        "several_seeds": any(len(group.results) > 1 for group in groups),
        "cases": len(content["cases"]),
        "rows": rows,
        "conventions": page.conventions(mine),
        "main_columns": main,
        "distances": distances,
        "bootstrap": content["bootstrap"],
        "notes": words.notes(groups),
        "keys": [page.key(number) for number in range(len(groups))],
        "keys_list": page.keys_list(names),
        "interval_plots": page.interval_plots(parts, rows, distances),
        "case_plots": page.case_plots(groups, rows),
        "curve_plots": curves,
        "curve_keys": page.keys_list(classes if by_class else names),
        "swatches": [(name, colour(number)) for number, name in enumerate(classes, 1)],
        "differing": words.differing(groups),
        "commands": [
            content["command"],
            *dict.fromkeys(
                run["command"] for part in parts for run in part["runs"] if run["command"]
            ),
        ],
        "versions": words.versions(groups, content),
        "date": content["date"],
    }


def _pictures(s: PageSettings, groups: Sequence[Group]) -> dict:
    """`pictures`: worst, median and best case, each with a heading, rows of panels, or why there is none; `no_pictures`: why of all."""
    found = []
    for word, number in (
        progress(chosen_cases(groups).items(), desc="drawing", unit="case", leave=False)
        if s.pictures
        else ()
    ):
        name, rows, fault = groups[0].results[0].cases[number], [], ""
        try:
            rows = panels(groups, number, s.root_path)
        except UserError as error:
            fault = str(error)
            message(printable(f"warning: no pictures of {name}: {fault}"))
        found.append({"word": word, "name": name, "rows": rows, "fault": fault})
    if all(case["fault"] for case in found):
        return {
            "pictures": [],
            "no_pictures": found[0]["fault"] if found else "left out by --no-pictures",
        }
    return {"pictures": found, "no_pictures": ""}
