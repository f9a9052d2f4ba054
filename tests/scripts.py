"""The scripts of `code/` as functions of the words of a command line."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import fewlabels
from commands.test import settings_from_flags
from datasets.base import DatasetSpec
from utils.errors import ReportedError

CODE = Path(__file__).resolve().parents[1] / "code"
Main = Callable[[Sequence[str]], int | None]


def main_of(name: str) -> Main:
    """Return the function that a script calls with the words of its command line."""
    spec = spec_from_file_location(f"script_{name}", CODE / f"{name}.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


check = main_of("check_data")
compare = main_of("compare")
export = main_of("export_weights")
predict = main_of("predict")
prepare = main_of("prepare_data")
register = main_of("CoGRNet_register")
report = main_of("report")
run_test = main_of("test")
run_test_two_slices = main_of("test_CoGRNet")


def score(argv: Sequence[str]) -> int:
    """Score a folder of predictions; return 2 where code/evaluate.py exits with 2 after it has
    reported the faults.
    """
    try:
        main_of("evaluate")(argv)
    except ReportedError:
        return 2
    return 0


def evaluate(dataset: DatasetSpec, argv: Sequence[str], **numbers: object) -> None:
    """Test a checkpoint of a data set, as a test script of that data set whose defaults are
    changed by `numbers`.
    """
    dataset = replace(dataset, test_defaults={**dataset.test_defaults, **numbers})
    fewlabels.test(settings_from_flags(dataset, argv), dataset=dataset)
