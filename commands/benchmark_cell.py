"""One cell of a benchmark: a method, a number of labelled cases, a fold and a seed, trained and
tested.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from commands import test, train
from commands.any_dataset import find_data
from commands.benchmark_folds import fold_root
from commands.config_file import NAME as CONFIG_FILE
from commands.runs import find_checkpoint
from commands.train_flags import configs_from_flags
from dataloaders.dataset_info import DatasetInfo
from dataloaders.digest import content_hash
from dataloaders.hdf5 import check_root
from datasets.base import DatasetSpec, data_root
from evaluation.results import EvaluationResult, write_json
from methods.registry import METHODS
from reporting.leaderboard_table import Costs
from reporting.record import (
    CellRecord,
    CellTest,
    cell_name,
    column_name,
    read_record,
    tested,
)
from training.checkpoint import VALIDATED, read
from training.config import AnyConfig
from training.stage import StageResult
from utils.errors import UserError
from utils.json_file import read_json
from utils.messages import message
from utils.provenance import sha256


@dataclass(frozen=True)
class Cell:
    """A cell of the table.

    `flags`: of its training command, in addition to those that follow from the other fields.
    `output`: the folder of the benchmark. `dataset`: name or file of the data set, empty for own
    data in `root_path`. `fold`: its number, of `folds`; None if the cell is tested on the test list
    of the data set.
    """

    method: str
    labelnum: int
    seed: int
    flags: tuple[str, ...]
    output: Path
    dataset: str
    root_path: Path | None
    fold: int | None = None
    folds: int = 0

    @property
    def column(self) -> str:
        """Fold and seed of the cell, for names."""
        return column_name(self.seed, self.fold)

    @property
    def name(self) -> str:
        """Name of the cell in messages and of its files."""
        return cell_name(self.method, self.labelnum, seed=self.seed, fold=self.fold)

    @property
    def record(self) -> Path:
        """File with the results, written when the cell is complete."""
        return self.output / "records" / f"{self.name}.json"

    @property
    def log(self) -> Path:
        """File with what training and tests print."""
        return self.output / "logs" / f"{self.name}.log"

    @property
    def seconds_file(self) -> Path:
        """File with a line for each time that the cell ran: the seconds it took."""
        return self.output / "logs" / f"{self.name}.seconds"

    @property
    def data(self) -> Path | None:
        """Folder of the data that the cell reads: that of its fold, or `root_path`."""
        if self.fold is None:
            return self.root_path
        return fold_root(self.output, self.fold)

    def spec(self) -> DatasetSpec:
        """Return the data set. Raises UserError for an unknown one."""
        return benchmark_data(self.dataset, self.data)

    def argv(self) -> list[str]:
        """Return the words of the cell's training command."""
        words = ["--method", self.method, "--labelnum", str(self.labelnum)]
        words += ["--seed", str(self.seed), "--exp", f"{self.method}_{self.column}"]
        words += ["--output_root", str(self.output / "runs"), "--keep_validated"]
        if self.data is not None:
            words += ["--root_path", str(self.data)]
        return [*words, *self.flags]

    def config(self, dataset: DatasetSpec) -> AnyConfig:
        """Return the configuration of the run. Raises UserError for flags that it cannot have."""
        script = dataset.script_defaults(self.labelnum)
        return configs_from_flags(dataset, self.argv(), script, published=False)[0]

    def check_data(self, dataset: DatasetSpec) -> None:
        """Raise UserError if the folder of the data is missing, or if the training list of the cell
        has fewer cases than `labelnum`.
        """
        root = data_root(dataset.info.name, self.data)
        check_root(root, dataset.info.name)
        dataset.cases(root, dataset.info, self.labelnum)

    def seconds(self) -> float:
        """Return the time that the cell has taken so far."""
        if not self.seconds_file.is_file():
            return 0.0
        lines = self.seconds_file.read_text(encoding="utf-8").split()
        return sum(float(line) for line in lines)


def benchmark_data(dataset: str, root_path: Path | None) -> DatasetSpec:
    """Return the data set of a benchmark. Raises UserError for an unknown one.

    `dataset`: its name or file, empty for own data in `root_path`.
    """
    spec = find_data(dataset, root_path)
    if spec is None:
        raise UserError(
            "--dataset: name a public data set, the Python file of one, or with --root_path "
            "the folder of own data (docs/data.md)"
        )
    return spec


def length_flags(method: str, pre_iterations: int, max_iterations: int) -> list[str]:
    """Return the flags that give a method its share of the benchmark's iterations.

    A method with pre-training makes `pre_iterations` of it and `max_iterations` of self-training;
    one without makes their sum.
    """
    lengths = set(chain.from_iterable(spec.lengths for spec in METHODS[method].stages))
    if "pre_iterations" in lengths:
        return ["--pre_iterations", str(pre_iterations), "--max_iterations", str(max_iterations)]
    return ["--max_iterations", str(pre_iterations + max_iterations)]


def equal_time_lengths(
    method: str,
    pre_iterations: int,
    max_iterations: int,
    *,
    baseline: str,
    costs: Costs,
) -> tuple[int, int]:
    """Return the lengths with which the method takes the time that the baseline takes with
    `pre_iterations` and `max_iterations`.

    `costs`: relative times of a step, `time` and for pre-training `pre_time`. Both lengths change
    by the same factor. Raises UserError for a method without costs.
    """
    seconds: list[float] = []
    for name in (baseline, method):
        lengths = set(chain.from_iterable(spec.lengths for spec in METHODS[name].stages))
        needed = ["time"]
        if len(METHODS[name].stages) > 1:
            needed.append("pre_time")
        missing = [key for key in needed if key not in costs.get(name, {})]
        if missing:
            raise UserError(
                f"--equal_time: --costs has no {missing[0]} of {name}; measure it with "
                "benchmarks/method_steps.py --json"
            )
        cost = costs[name]
        if "pre_iterations" not in lengths or "pre_time" not in cost:
            seconds.append((pre_iterations + max_iterations) * cost["time"])
        else:
            seconds.append(pre_iterations * cost["pre_time"] + max_iterations * cost["time"])
    factor = seconds[0] / seconds[1]
    return max(1, round(pre_iterations * factor)), max(1, round(max_iterations * factor))


def complete_cell(cell: Cell, test_selected: bool) -> None:
    """Do what is missing of a cell: training and tests, and if asked for the test-selected result.

    Raises UserError for what the user can correct, and Interrupted after a signal; the same call
    resumes.
    """
    if not cell.record.is_file():
        run_cell(cell)
    if test_selected:
        with _timed(cell):
            add_test_selected(cell)


def run_cell(cell: Cell) -> None:
    """Train the cell or resume it, test its best and its last checkpoint, and write its record.

    Without validation (--select last) there is no best checkpoint.
    """
    dataset = cell.spec()
    config = cell.config(dataset)
    with _timed(cell):
        trained = train.run(dataset, config)
        checkpoints = {"best": trained.best, "last": trained.stages[-1].last}
        if not validation_split(dataset, config):
            del checkpoints["best"]
        tests: dict[str, CellTest] = {}
        for which, checkpoint in checkpoints.items():
            result = _test(dataset, checkpoint, config)
            tests[which] = tested(result, iteration=_iteration(checkpoint))
    record = CellRecord(
        dataset=dataset.info.name,
        method=cell.method,
        labelnum=cell.labelnum,
        seed=cell.seed,
        fold=cell.fold,
        folds=cell.folds,
        options=config.computed(),
        stages=[_history(stage) for stage in trained.stages],
        seconds=cell.seconds(),
        tests=tests,
        init_sha256=_init_hash(config),
        trained_commit=_trained_commit(trained.folder),
    )
    _write(cell, record)


def validation_split(dataset: DatasetSpec, config: AnyConfig) -> str:
    """Return the split that selects the best checkpoint; empty if there is no validation."""
    split, _ = dataset.selection(config.optimization.select)
    return split


def add_test_selected(cell: Cell) -> None:
    """Test all validated networks of a finished cell, and add the best of them to its record.

    The result is optimistic: it is selected on the test list. Only do this once every choice has
    been made.
    """
    dataset = cell.spec()
    config = cell.config(dataset)
    record = read_record(cell.record)
    stage = record.stages[-1]["name"]
    run = dataset.folder(cell.output / "runs", config.experiment.exp, cell.labelnum)
    folder = run / stage / VALIDATED
    paths = sorted(folder.glob("*.pth"), key=lambda path: int(path.stem))
    if not paths:
        raise UserError(
            f"{folder}: holds no validated networks; delete {cell.record} and {run}, then repeat "
            "the command"
        )
    message(f"test-selected, optimistic: all {len(paths)} validated networks of {run} are tested")
    tests: list[CellTest] = []
    for path in paths:
        result = _test(dataset, path, config)
        tests.append(tested(result, iteration=_iteration(path)))
    record.tests["test_selected"] = max(tests, key=lambda one: one.mean("dice"))
    record.test_dice = {str(one.iteration): one.mean("dice") for one in tests}
    _write(cell, record)


def is_complete(cell: Cell, dataset: DatasetSpec, test_selected: bool) -> bool:
    """Return whether the cell has its record.

    Raises UserError if the record is of a run with other options or other data.
    """
    if not cell.record.is_file():
        return False
    record = read_record(cell.record)
    if record.folds != cell.folds:
        raise UserError(
            f"{cell.record}: was made with --folds {record.folds}, now {cell.folds}; use another "
            "--output"
        )
    config = cell.config(dataset)
    options = config.computed()
    for name in sorted(options.keys() | record.options.keys()):
        if options.get(name) != record.options.get(name):
            raise UserError(
                f"{cell.record}: was made with --{name} {record.options.get(name)}, now "
                f"{options.get(name)}; use another --output, or the earlier flags"
            )
    if _init_hash(config) != record.init_sha256:
        raise UserError(
            f"{cell.record}: was made with another --init; use another --output, or the earlier "
            "flags"
        )
    _check_same_data(cell, record, dataset.info)
    return "test_selected" in record.tests or not test_selected


def _check_same_data(cell: Cell, record: CellRecord, info: DatasetInfo) -> None:
    """Raise UserError if the record is of another data set or of other test cases."""
    root = data_root(info.name, cell.data)
    data = content_hash(root, info, "test")
    names = info.read_list(root, info.list_name("test"))
    is_same = record.dataset == info.name
    for tested_network in record.tests.values():
        if tested_network.cases != names or tested_network.data not in (None, data):
            is_same = False
    if not is_same:
        raise UserError(
            f"{cell.record}: was tested on data different from those in {root}; use another "
            "--output, or the earlier data"
        )


def _init_hash(config: AnyConfig) -> str | None:
    """Return the hash of the checkpoint that the run starts from; None without --init."""
    if config.experiment.init is None:
        return None
    path, _ = find_checkpoint(config.experiment.init)
    return sha256(path)


@contextmanager
def _timed(cell: Cell) -> Iterator[None]:
    """Add the time in the context to the cell's file, also if an exception ends it."""
    began = time.monotonic()
    try:
        yield
    finally:
        cell.seconds_file.parent.mkdir(parents=True, exist_ok=True)
        with open(cell.seconds_file, "a", encoding="utf-8") as file:
            file.write(f"{time.monotonic() - began:.1f}\n")


def _trained_commit(folder: Path) -> str | None:
    """Return the commit that began the run in `folder`."""
    return read_json(folder / CONFIG_FILE).get("git_commit")


def _test(dataset: DatasetSpec, checkpoint: Path, config: AnyConfig) -> EvaluationResult:
    values = {
        "checkpoint": checkpoint,
        "root_path": config.experiment.root_path,
        "device": config.experiment.device,
        "gpu": config.runtime.gpu,
    }
    settings = test.settings_from_values(dataset, values)
    return test.run(dataset, settings)[0]


def _iteration(checkpoint: Path) -> int:
    return int(read(checkpoint).progress["step"])


def _history(stage: StageResult) -> dict[str, object]:
    history: Sequence[object] = [dict(row) for row in stage.history]
    return {
        "name": stage.name,
        "iterations": stage.steps,
        "best_iteration": stage.best_step,
        "history": history,
    }


def _write(cell: Cell, record: CellRecord) -> None:
    cell.record.parent.mkdir(parents=True, exist_ok=True)
    write_json(cell.record, record.plain(), indent=None)
