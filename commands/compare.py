"""From tested runs to a page: what compare.py and report.py call."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from commands.any_dataset import find_data
from commands.bootstrap import check_bootstrap
from commands.runs import RunRequest, find_run
from commands.test_folder import move_results
from datasets.registry import find_dataset
from evaluation.results import write_json
from reporting import html_page as page
from reporting import words
from reporting.case_pictures import Panel, chosen_cases, panels
from reporting.groups import Group, make_groups
from reporting.numbers import Comparison, GroupNumbers, compare_groups
from reporting.tested_run import find_result
from utils.errors import UserError, writing
from utils.files import check_plain, scratch
from utils.lock import only_writer
from utils.messages import message
from utils.names import MEAN_OF_CLASSES, printable
from utils.pictures import colour
from utils.progress import progress
from utils.provenance import provenance


@dataclass(frozen=True)
class PageSettings:
    """Settings that compare.py and report.py share."""

    output: Path = Path("report")
    """Folder for index.html and its numbers as JSON. The page shows scans: keep it where the data's
    terms allow, or use --no_pictures."""
    which: Literal["best", "last"] = "best"
    """Which checkpoint's results to take if both the best and the last one of a run were tested."""
    root_path: Path | None = None
    """Folder of the data set, for the pictures. Default: the folder that the test read."""
    pictures: bool = True
    """Show the worst, the median and the best case."""

    def check(self) -> None:
        """Raise UserError for values that cannot be used."""
        if self.output.exists() and not self.output.is_dir():
            raise UserError(f"--output {self.output}: is a file; name a folder for index.html")


@dataclass(frozen=True)
class CompareSettings(PageSettings):
    """Settings of compare.py."""

    runs: Positional[Annotated[tuple[Path, ...], arg(metavar="RUN [RUN ...]")]] = ()
    """Folders of tested runs, of one of their stages, of their predictions, or folders that
    evaluate.py wrote. Runs that differ only in their seed form one group. Each group is compared
    with the group of the first run."""
    names: tuple[str, ...] = ()
    """Names of the groups, in the order of their first runs."""
    seed: int = 1337
    """Seed of the bootstrap."""
    draws: int = 10_000
    """Number of bootstrap draws."""

    def check(self) -> None:
        """Raise UserError for values that cannot be used."""
        super().check()
        if not self.runs:
            raise UserError(
                "name at least one tested run, as in: compare.py RUN RUN --output report"
            )
        check_bootstrap(self.draws, self.seed)


@dataclass(frozen=True)
class ReportSettings(PageSettings):
    """Settings of report.py."""

    run: Path | None = None
    """Folder of the run, instead of --output_root, --exp and --labelnum."""
    dataset: str = ""
    """Data set of the run, or the file of a data set's description. Default: own data if
    --root_path has a plan.json, else ACDC."""
    output_root: Path | None = None
    """Folder that contains the runs. Default: code/model in the repository."""
    exp: str | None = None
    """Name of the experiment, part of the run's folder. Default: the published one, or the only run
    of the data set."""
    labelnum: int | None = None
    """Number of labelled patients or scans of the run. Default: the published one, or that of the
    only run."""
    predictions: Path | None = None
    """Folder that the test wrote. Default: the run's test folder."""


@dataclass(frozen=True)
class CompareResult:
    """A comparison (docs/evaluation.md).

    `page`: index.html. `file`: the JSON file with the numbers. `numbers`: its content.
    """

    page: Path
    file: Path
    numbers: Mapping[str, Any]


@dataclass(frozen=True)
class CasePictures:
    """The pictures of a case on the page: rows of panels.

    `word`: worst, median or best. `fault`: why the case cannot be shown; empty if it can.
    """

    word: str
    name: str
    rows: Sequence[Sequence[Panel]]
    fault: str


def run(settings: CompareSettings) -> CompareResult:
    """Compare tested runs and write the page.

    Raises UserError for runs without a test, and for runs that were tested on other cases.
    """
    settings.check()
    results = [find_result(path, settings.which) for path in settings.runs]
    groups = make_groups(results, settings.names)
    return write(settings, groups, name="compare.json", seed=settings.seed, draws=settings.draws)


def run_report(settings: ReportSettings) -> CompareResult:
    """Write the page of one tested run. Raises UserError for a run without a test."""
    settings.check()
    folder = settings.predictions or settings.run or _run_folder(settings)
    groups = make_groups([find_result(folder, settings.which)])
    return write(settings, groups, name="report.json")


def write(
    settings: PageSettings,
    groups: Sequence[Group],
    name: str,
    seed: int = 1337,
    draws: int = 10_000,
) -> CompareResult:
    """Write index.html and the file `name` with its numbers to `settings.output`.

    Reports the table and the paths. `seed`, `draws`: of the bootstrap.
    """
    _read_checkpoints(groups)
    comparison = compare_groups(groups, seed, draws=draws, about=provenance())
    content = comparison.plain()
    shown = _shown(groups, comparison) | _pictures(settings, groups) | {"numbers": name}
    remedy = "free space or name another folder with --output"
    with (
        only_writer(settings.output, remedy),
        writing(settings.output, remedy),
        scratch("page", settings.output) as place,
    ):
        folder = place / "results"
        folder.mkdir()
        write_json(folder / name, content)
        page.write_page(folder / "index.html", shown)
        move_results(folder, settings.output)
    html = settings.output / "index.html"
    message(printable(words.table(comparison.groups)))
    message(f"page: {html}    numbers: {settings.output / name}")
    return CompareResult(html, file=settings.output / name, numbers=content)


def _read_checkpoints(groups: Sequence[Group]) -> None:
    """Read the checkpoints of all runs, which the results then keep, under a progress bar."""
    results = list(chain.from_iterable(group.results for group in groups))
    with progress(results, desc="reading checkpoints", unit="run", leave=False) as bar:
        for result in bar:
            _ = result.stages


def _run_folder(settings: ReportSettings) -> Path:
    """Find the run's folder as the test scripts do.

    Reports which run was chosen for flags that were omitted.
    """
    if settings.exp is not None:
        check_plain("exp", settings.exp)
    dataset = find_data(settings.dataset, settings.root_path) or find_dataset("ACDC")
    folder, _, notes = find_run(
        dataset, settings.output_root, RunRequest(exp=settings.exp, labelnum=settings.labelnum)
    )
    for note in notes:
        message(note)
    return folder


def _shown(groups: Sequence[Group], comparison: Comparison) -> dict[str, Any]:
    """The values for the template, except pictures."""
    classes = comparison.classes
    names = [group.name for group in groups]
    conventions = page.conventions(comparison.groups, comparison.tolerances)
    distance = _main_distance(comparison.groups)
    rows = _rows(classes)
    curves, has_class_curves = page.curve_plots(groups, classes)
    curve_names = names
    if has_class_curves:
        curve_names = classes
    return {
        "title": words.title(comparison),
        "subtitle": words.subtitle(comparison),
        "groups": comparison.groups,
        "seeds": [words.seeds(group) for group in groups],
        "several_seeds": any(len(group.results) > 1 for group in groups),
        "cases": len(comparison.cases),
        "rows": rows,
        "conventions": conventions,
        "main_columns": _main_columns(conventions, distance),
        "distance": distance,
        "bootstrap": comparison.bootstrap,
        "notes": words.notes(groups),
        "keys": [page.key(number) for number in range(len(groups))],
        "keys_list": page.keys_list(names),
        "interval_plots": page.interval_plots(comparison.groups, rows, distance=distance),
        "case_plots": page.case_plots(groups, rows),
        "curve_plots": curves,
        "curve_keys": page.keys_list(curve_names),
        "swatches": [(name, colour(number)) for number, name in enumerate(classes, 1)],
        "differing": words.differing(groups),
        "commands": _commands(comparison),
        "versions": words.versions(groups, comparison.about),
        "date": comparison.about["date"],
    }


def _rows(classes: Sequence[str]) -> list[page.TableRow]:
    """The rows of the tables: the mean over several classes, and each class."""
    rows = [page.TableRow(name, name) for name in classes]
    if len(classes) > 1:
        rows.insert(0, page.TableRow(MEAN_OF_CLASSES, "mean over the classes"))
    return rows


def _main_distance(groups: Sequence[GroupNumbers]) -> page.MainDistance:
    """HD95 in mm if every group has it, otherwise in voxels."""
    if all(group.scores["honest_mm"] for group in groups):
        return page.MainDistance("honest_mm", "hd95_mm", unit="mm")
    return page.MainDistance("honest", "hd95_voxel", unit="voxels")


def _main_columns(
    conventions: Sequence[page.ConventionTable], distance: page.MainDistance
) -> list[page.MetricColumn]:
    """The columns of the first table of differences: penalised Dice and the main distance."""
    main = (("honest", "dice"), (distance.convention, distance.metric))
    columns: list[page.MetricColumn] = []
    for convention in conventions:
        for column in convention.columns:
            if (column.convention, column.name) in main:
                columns.append(column)
    return columns


def _commands(comparison: Comparison) -> list[str]:
    """The command of this page, then those of the tests, each once."""
    commands: list[str] = [comparison.about["command"]]
    for group in comparison.groups:
        for run in group.runs:
            if run.command and run.command not in commands[1:]:
                commands.append(run.command)
    return commands


def _pictures(settings: PageSettings, groups: Sequence[Group]) -> dict[str, Any]:
    """Pictures of the worst, median and best case.

    `pictures`: of each case. `no_pictures`: the reason if no case can be shown.
    """
    if not settings.pictures:
        return {"pictures": [], "no_pictures": "omitted by --no_pictures"}
    pictures: list[CasePictures] = []
    cases = chosen_cases(groups).items()
    for word, number in progress(cases, desc="drawing", unit="case", leave=False):
        name = groups[0].results[0].cases[number]
        rows = []
        fault = ""
        try:
            rows = panels(groups, number, root_path=settings.root_path)
        except UserError as error:
            fault = str(error)
            message(printable(f"warning: no pictures of {name}: {fault}"))
        pictures.append(CasePictures(word, name, rows=rows, fault=fault))
    if all(case.fault for case in pictures):
        return {"pictures": [], "no_pictures": pictures[0].fault}
    return {"pictures": pictures, "no_pictures": ""}
