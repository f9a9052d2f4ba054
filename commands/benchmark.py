"""A table of runs, trained, tested and compared: methods x labels x folds x seeds."""

import itertools
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from commands.benchmark_cell import (
    Cell,
    benchmark_data,
    equal_time_lengths,
    is_complete,
    length_flags,
    validation_split,
)
from commands.benchmark_folds import write_folds
from commands.benchmark_jobs import Job, cluster_start, run_cells, start_locally
from commands.leaderboard import LeaderboardResult, read_costs, write
from datasets.base import DatasetSpec
from methods.registry import METHODS
from reporting.leaderboard import complete_seeds
from reporting.leaderboard_table import Bootstrap, Costs
from reporting.record import SELECTIONS, read_record
from reporting.words import counted
from training.log import hours
from utils.cli import is_flag
from utils.errors import Interrupted, UserError
from utils.lock import only_writer
from utils.messages import error_message, message
from utils.names import printable
from utils.registry import check_name
from utils.workers import check_processes, terminated

AGAIN = "the same command continues the benchmark"
ONLY_TESTS = "only tests"
SET_BY_BENCHMARK = {
    "method": "use --methods",
    "labelnum": "use --labelnums",
    "seed": "use --seeds before --",
    "seeds": "use --seeds before --",
    "dataset": "use --dataset before --",
    "root_path": "use --root_path before --",
    "output_root": "use --output",
    "exp": "remove it, the benchmark names its runs",
    "fresh": "remove it, and delete the benchmark's folder to start over",
    "config": "write the options as flags",
    "run_mode": "remove it, the benchmark runs all stages",
}
"""Flags of training that the benchmark sets itself, and what to do instead."""


@dataclass(frozen=True)
class BenchmarkSettings:
    """Settings of a benchmark. Flags of training follow after --."""

    output: Path = Path("benchmark")
    """Folder of the benchmark: runs, records, logs, leaderboard.json and index.html."""
    dataset: str = ""
    """Data set by name, or the file of a data set's description. Own data need only --root_path."""
    root_path: Path | None = None
    """Folder of the data set. Default: data_split/<data set> in the repository."""
    methods: tuple[str, ...] = ()
    """Methods of the table."""
    labelnums: tuple[int, ...] = ()
    """Numbers of labelled cases."""
    seeds: tuple[int, ...] = ()
    """Seeds."""
    folds: int = 0
    """Cross-validation: number of folds of the training list, whose patients are tested once per
    seed. 0: test on the test list of the data set."""
    pre_iterations: int = 10_000
    """Length of pre-training. A method without pre-training makes the sum of both lengths."""
    max_iterations: int = 30_000
    """Length of self-training."""
    method_flags: tuple[str, ...] = ()
    """Flags of training for one method, each as "METHOD FLAGS" or "METHOD:LABELNUM FLAGS", as in
    --method_flags "edge_guided --static_start 40"."""
    baseline: str = "bcp"
    """Method that the others are compared with."""
    jobs: int = 1
    """Runs at a time."""
    threads: int = 1
    """Threads of each run on the CPU."""
    cluster: Literal["none", "slurm", "local"] = "none"
    """Submit each run as a job through submitit: slurm, or local for a trial on this machine."""
    slurm: tuple[str, ...] = ()
    """Parameters of the jobs as NAME=VALUE, as in --slurm timeout_min=240 slurm_partition=gpu
    gpus_per_node=1 (submitit's names)."""
    test_selected: bool = False
    """Also test every validated network on the test list and report the best one, marked as
    optimistic. Use it once, after every choice has been made."""
    equal_time: bool = False
    """Give each method the training time of the baseline (by --costs) instead of its iterations."""
    costs: Path | None = None
    """JSON file with what a step of each method costs (benchmarks/method_steps.py --json)."""

    def check(self) -> None:
        """Raise UserError for values that cannot be used."""
        for flag in ("methods", "labelnums", "seeds"):
            values: tuple[object, ...] = getattr(self, flag)
            if not values:
                raise UserError(f"--{flag}: name at least one")
            if len(set(values)) < len(values):
                raise UserError(f"--{flag}: names one twice; remove it")
        for method in self.methods:
            check_name(METHODS, method, flag="--methods")
        for flag in ("jobs", "threads"):
            if getattr(self, flag) < 1:
                raise UserError(f"--{flag} {getattr(self, flag)}: must be at least 1")
        if self.folds < 0 or self.folds == 1:
            raise UserError(f"--folds {self.folds}: use at least 2, or 0 for the test list")
        if self.equal_time and self.costs is None:
            raise UserError("--equal_time: needs --costs (benchmarks/method_steps.py --json)")
        self._check_jobs()

    def _check_jobs(self) -> None:
        if self.cluster == "none":
            check_processes("jobs", self.jobs)
            if self.slurm:
                raise UserError("--slurm: needs --cluster slurm")
        for setting in self.slurm:
            if "=" not in setting:
                raise UserError(f"--slurm {setting}: write NAME=VALUE, as in timeout_min=240")


@dataclass(frozen=True)
class BenchmarkResult:
    """A finished benchmark: its leaderboard, and the reason of each run that failed by its name.

    `leaderboard`: None if no run has a result.
    """

    leaderboard: LeaderboardResult | None
    failed: dict[str, str]

    def check(self) -> None:
        """Raise UserError if a run failed."""
        if self.failed:
            count = counted(len(self.failed), "run")
            raise UserError(
                f"{count} failed ({', '.join(self.failed)}); see the messages, then {AGAIN}"
            )


def split_flags(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split a command line at --: the benchmark's own words, and the flags of training."""
    own = list(argv)
    if "--" not in own:
        return own, []
    position = own.index("--")
    return own[:position], own[position + 1 :]


def run(settings: BenchmarkSettings, flags: Sequence[str] = ()) -> BenchmarkResult:
    """Run the cells that have no record yet, and write the leaderboard.

    `flags`: of training, for all cells. Raises UserError for settings and flags that a cell cannot
    have, before anything runs, and Interrupted after a signal.
    """
    settings.check()
    _check_flags(flags, "after --")
    costs = read_costs(settings.costs)
    cells = table_cells(settings, flags, costs=costs)
    dataset = benchmark_data(settings.dataset, settings.root_path)
    with only_writer(settings.output, "name another folder with --output"), terminated(AGAIN):
        if settings.folds:
            write_folds(
                settings.output.absolute(), dataset, settings.root_path, count=settings.folds
            )
        open_cells = [
            cell for cell in cells if not is_complete(cell, dataset, settings.test_selected)
        ]
        for cell in open_cells:
            cell.check_data(dataset)
        progress = TableProgress(cells, open_cells, jobs=settings.jobs)
        message(progress.start())
        try:
            run_cells(
                open_cells, _starter(settings), jobs=settings.jobs, finished=progress.finished
            )
        except KeyboardInterrupt:
            raise Interrupted(f"interrupted; finished runs are kept, {AGAIN}", 130) from None
        done = [cell for cell in cells if cell.record.is_file()]
        records, _ = complete_seeds([read_record(cell.record) for cell in done])
        if not records:
            return BenchmarkResult(None, progress.failed)
        leaderboard = write(
            settings.output,
            records,
            baseline=settings.baseline,
            costs=costs,
            bootstrap=Bootstrap(),
            missing=[cell.name for cell in cells if cell not in done],
        )
    return BenchmarkResult(leaderboard, progress.failed)


def table_cells(
    settings: BenchmarkSettings, flags: Sequence[str], costs: Costs | None = None
) -> list[Cell]:
    """Return the cells of the table: seed by seed and fold by fold, so that each method has a
    result early.

    `costs`: of the methods, for --equal_time. Raises UserError for flags that a cell cannot have.
    """
    by_method = _method_flags(settings)
    lengths = {method: _lengths(settings, method, costs=costs or {}) for method in settings.methods}
    folds: list[int | None] = [None]
    if settings.folds:
        folds = list(range(settings.folds))
    cells: list[Cell] = []
    columns = itertools.product(settings.labelnums, settings.seeds, folds, settings.methods)
    for labelnum, seed, fold, method in columns:
        words = length_flags(method, *lengths[method])
        words += flags
        words += by_method.get(method, [])
        words += by_method.get(f"{method}:{labelnum}", [])
        cells.append(
            Cell(
                method=method,
                labelnum=labelnum,
                seed=seed,
                flags=tuple(words),
                output=settings.output.absolute(),
                dataset=settings.dataset,
                root_path=_absolute(settings.root_path),
                fold=fold,
                folds=settings.folds,
            )
        )
    dataset = benchmark_data(settings.dataset, settings.root_path)
    for cell in cells:
        _check_selection(dataset, cell, settings.test_selected)
    return cells


def _check_selection(dataset: DatasetSpec, cell: Cell, test_selected: bool) -> None:
    """Raise UserError if the cell's checkpoint is selected on the list that it is tested on, or if
    `test_selected` needs validations that the cell does not have.
    """
    split = validation_split(dataset, cell.config(dataset))
    if split == "test":
        raise UserError(
            f"{cell.name}: --select test selects the checkpoint on the cases that the benchmark "
            "tests; add --select last or --select val after --"
        )
    if test_selected and not split:
        raise UserError(
            f"{cell.name}: --test_selected tests the validated networks, but --select last has no "
            "validation; add --select val after --, or remove --test_selected"
        )


def _lengths(settings: BenchmarkSettings, method: str, costs: Costs) -> tuple[int, int]:
    """Return the lengths of pre-training and self-training of a method with pre-training."""
    lengths = (settings.pre_iterations, settings.max_iterations)
    if not settings.equal_time:
        return lengths
    return equal_time_lengths(method, *lengths, baseline=settings.baseline, costs=costs)


def _absolute(path: Path | None) -> Path | None:
    if path is None:
        return None
    return path.absolute()


def _method_flags(settings: BenchmarkSettings) -> dict[str, list[str]]:
    """Return the words of --method_flags by method, or method and number of labelled cases."""
    by_method: dict[str, list[str]] = {}
    for entry in settings.method_flags:
        try:
            name, *words = shlex.split(entry)
        except ValueError:
            raise UserError(f'--method_flags "{entry}": write "METHOD FLAGS"') from None
        method, _, labelnum = name.partition(":")
        if method not in settings.methods:
            raise UserError(f"--method_flags {name}: {method} is not one of --methods")
        if labelnum and labelnum not in map(str, settings.labelnums):
            raise UserError(f"--method_flags {name}: {labelnum} is not one of --labelnums")
        _check_flags(words, f"in --method_flags {name}")
        by_method[name] = words
    return by_method


def _check_flags(flags: Sequence[str], where: str) -> None:
    """Raise UserError for a flag of training that the benchmark sets itself."""
    for word in flags:
        for flag, remedy in SET_BY_BENCHMARK.items():
            if is_flag(word.partition("=")[0], flag):
                raise UserError(f"--{flag} {where}: the benchmark sets this flag; {remedy}")


def _starter(settings: BenchmarkSettings) -> Callable[[Cell], Job]:
    """Return the function that starts a cell."""
    if settings.cluster == "none":
        return partial(
            start_locally, threads=settings.threads, test_selected=settings.test_selected
        )
    parameters: dict[str, Any] = {}
    for setting in settings.slurm:
        name, _, value = setting.partition("=")
        parameters[name] = value
        if value.isdecimal():
            parameters[name] = int(value)
    return cluster_start(
        settings.cluster,
        settings.output / "submitit",
        threads=settings.threads,
        parameters=parameters,
        test_selected=settings.test_selected,
    )


class TableProgress:
    """Reports finished cells, and how long the rest of the table takes."""

    def __init__(self, cells: Sequence[Cell], open_cells: Sequence[Cell], jobs: int) -> None:
        """`cells`: of the whole table. `open_cells`: those that this call runs, up to `jobs` at a
        time.
        """
        self.total = len(cells)
        self.waiting = {cell.name: cell for cell in open_cells}
        self.jobs = jobs
        self.failed: dict[str, str] = {}
        self.seconds: dict[str, list[float]] = {}
        # These cells have been trained, and only lack the tests of all validated networks.
        self.seconds_before = {
            cell.name: cell.seconds() for cell in open_cells if cell.record.is_file()
        }
        for cell in cells:
            if cell.name not in self.waiting:
                self._learn(cell)

    def start(self) -> str:
        """Return the line with which the benchmark begins."""
        done = self.total - len(self.waiting)
        return f"{counted(self.total, 'run')}, {done} done{self._remaining()}"

    def finished(self, cell: Cell, failure: str) -> None:
        """Report a cell that has ended."""
        del self.waiting[cell.name]
        if failure:
            self.failed[cell.name] = failure
            error_message(printable(f"failed: {cell.name}: {failure}"))
            return
        self._learn(cell)
        count = self.total - len(self.waiting) - len(self.failed)
        dice = ", ".join(
            f"{SELECTIONS[key]} {test.mean('dice'):.4f}"
            for key, test in read_record(cell.record).tests.items()
        )
        message(
            f"{count}/{self.total} {cell.name}: test Dice {dice}; "
            f"{hours(cell.seconds())}{self._remaining()}"
        )

    def _learn(self, cell: Cell) -> None:
        self.seconds.setdefault(self._kind(cell), []).append(self._spent(cell))

    def _spent(self, cell: Cell) -> float:
        return cell.seconds() - self.seconds_before.get(cell.name, 0.0)

    def _kind(self, cell: Cell) -> str:
        return ONLY_TESTS if cell.name in self.seconds_before else cell.method

    def _remaining(self) -> str:
        """Return the expected time of the rest in words; empty before any cell has finished.

        A method that has not finished yet counts as the mean of the others. Cells that are only
        tested are not compared with those that train: the time is unknown until one of them has
        finished.
        """
        known = [seconds for of_kind in self.seconds.values() for seconds in of_kind]
        if not known or not self.waiting:
            return ""
        only_tests = any(name in self.seconds_before for name in self.waiting)
        if only_tests and ONLY_TESTS not in self.seconds:
            return ""
        total = 0.0
        for cell in self.waiting.values():
            times = self.seconds.get(self._kind(cell), known)
            total += max(sum(times) / len(times) - self._spent(cell), 0.0)
        return f"; about {hours(total / min(self.jobs, len(self.waiting)))} left"
