"""The house stands as it was drawn: imports point one way, settings are read, scripts start."""

import ast
import dataclasses
import inspect
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from started import run_script
from torch import nn

from commands.check import CheckSettings
from commands.compare import CompareSettings, ReportSettings
from commands.evaluate import ScoringSettings
from commands.export import ExportSettings
from commands.prepare import PrepareSettings
from datasets.registry import all_datasets, find_dataset
from datasets.resolve import option_classes, owner_of
from methods.registry import METHODS
from networks.registry import NETWORKS
from registration.settings import RegistrationSettings
from training.config import (
    MAY_DIFFER,
    DataOptions,
    ExperimentOptions,
    OptimizationOptions,
    RuntimeOptions,
)

REPOSITORY = Path(__file__).parents[1]
PACKAGES = (
    "networks",
    "utils",
    "scans",
    "methods",
    "training",
    "evaluation",
    "dataloaders",
    "datasets",
    "registration",
    "reporting",
    "commands",
)
# who may import whom: scripts -> fewlabels -> commands -> {reporting, registration} -> datasets
# -> {methods, training, evaluation, dataloaders} -> scans, networks, utils
ARROWS = {
    "networks": {"networks"},
    "utils": {"utils"},
    "scans": {"scans", "utils"},
    "methods": {"methods", "networks", "utils"},
    "training": {"training", "methods", "utils"},
    "evaluation": {"evaluation", "training", "methods", "dataloaders", "scans", "utils"},
    "dataloaders": {"dataloaders", "scans", "utils"},
    "datasets": {
        "datasets",
        "methods",
        "training",
        "evaluation",
        "dataloaders",
        "scans",
        "networks",
        "utils",
    },
    "registration": {"registration", "datasets", "evaluation", "dataloaders", "utils"},
    "reporting": set(PACKAGES) - {"registration", "commands"},
    "commands": set(PACKAGES),
}
DATASETS = [*all_datasets().values(), *all_datasets("TWO_SLICES").values()]
EVERY_RUN = (ExperimentOptions, DataOptions, OptimizationOptions, RuntimeOptions)
OPTIONS = {method.options for method in METHODS.values()}
OPTIONS |= {network.Options for network in NETWORKS.values()}
for dataset in DATASETS:
    OPTIONS |= {dataset.options, dataset.test_settings}
SCRIPTS = sorted([*(REPOSITORY / "code").glob("*.py"), *(REPOSITORY / "pancreas").glob("*.py")])


def imported(path: Path) -> set[str]:
    """Top-level names of what a file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_follow_the_arrows(package):
    files = list((REPOSITORY / package).rglob("*.py"))
    assert files
    for path in files:
        above = {"code", "tests", "pancreas", "fewlabels"}
        wrong = imported(path) & (set(PACKAGES) | above) - ARROWS[package]
        assert not wrong, f"{path.relative_to(REPOSITORY)} imports {wrong}"


def test_the_python_door_stands_between_scripts_and_commands():
    """It may import every package, and only scripts (and tests) may import it."""
    path = REPOSITORY / "fewlabels.py"
    assert {"commands"} <= imported(path) & set(PACKAGES)
    assert not imported(path) & {"code", "tests", "pancreas"}


def test_networks_need_torch_alone():
    for path in (REPOSITORY / "networks").rglob("*.py"):
        assert imported(path) - sys.stdlib_module_names <= {"torch", "networks"}, path


def test_script_folders_are_no_packages():
    """A package named `code` would hide the standard library's and break pdb."""
    assert not list((REPOSITORY / "code").glob("__init__.py")) + list(
        (REPOSITORY / "pancreas").glob("__init__.py")
    )


@cache
def attributes_read() -> set[str]:
    files = [
        path for package in PACKAGES for path in (REPOSITORY / package).rglob("*.py")
    ] + SCRIPTS
    return {
        node.attr
        for path in files
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
    }


@pytest.mark.parametrize(
    "settings",
    [
        *EVERY_RUN,
        *sorted(OPTIONS, key=str),
        RegistrationSettings,
        ReportSettings,
        CompareSettings,
        ScoringSettings,
        ExportSettings,
        PrepareSettings,
        CheckSettings,
    ],
    ids=lambda settings: f"{settings.__module__}.{settings.__name__}",
)
def test_every_setting_is_read_somewhere(settings):
    built = set()
    for network in NETWORKS.values():
        if settings is not network.Options:
            continue
        for base in network.__mro__:  # a network may pass options on to its base class
            if issubclass(base, nn.Module):
                built |= set(inspect.signature(base).parameters)
    assert {field.name for field in dataclasses.fields(settings)} <= attributes_read() | built


def test_defaults_of_pages_and_methods_name_real_settings():
    every = {
        field.name for options in (*EVERY_RUN, *OPTIONS) for field in dataclasses.fields(options)
    }
    for dataset in DATASETS:
        for defaults in (
            dataset.defaults,
            *dataset.methods.values(),
            *(method.presets for method in METHODS.values()),
        ):
            assert set(defaults) <= every, dataset.info.name
        assert set(dataset.methods) <= set(METHODS)
    assert every >= MAY_DIFFER


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_settings_on_every_page(method):
    for dataset in DATASETS:
        classes = option_classes(dataset, method, dataset.defaults["model"])
        names = {field.name for field in dataclasses.fields(METHODS[method].options)}
        assert names <= classes.types().keys()


def test_a_foreign_flag_names_its_owner():
    assert owner_of("focus") == "it belongs to --method cogrnet"
    assert owner_of("upsampling") == "it belongs to --model unet"
    assert owner_of("val_stride") == "it belongs to runs on KiTS19 or LA or LiTS or Pancreas"
    assert owner_of("labels") == "it belongs to code/CoGRNet_train.py"
    assert owner_of("nonsense") == ""


def test_packages_form_no_circle():
    seen: set[str] = set()
    left = {package: ARROWS[package] - {package} for package in PACKAGES}
    while left:
        free = {package for package, needs in left.items() if needs <= seen}
        assert free, f"a circle among {left}"
        seen |= free
        left = {package: needs for package, needs in left.items() if package not in free}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_short_start_anywhere_and_explain_themselves(script, tmp_path):
    assert len(script.read_text(encoding="utf-8").splitlines()) <= 50
    result = run_script(script, "--help", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    reads = {
        "export_model.py": "CHECKPOINT",
        "export_weights.py": "RUN OUT",
        "predict.py": "--input",
        "evaluate.py": "--predictions",
        "leaderboard.py": "RECORDS",
        "suggest.py": "PREDICTIONS",
    }.get(script.name, "--root")
    assert "usage" in result.stdout and reads in result.stdout
    assert f"python {script.parent.name}/{script.name}" in script.read_text(encoding="utf-8")


def test_threads_that_wait_are_told_so_before_torch_is_there():
    """OpenMP reads its settings once. The user's own choice stands."""
    show = (
        "import sys, commands, os; print('torch' in sys.modules, os.environ.get('GOMP_SPINCOUNT'))"
    )
    kept = {
        key: value
        for key, value in os.environ.items()
        if key not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    }
    for given, said in (
        ({}, "False 1000"),
        ({"GOMP_SPINCOUNT": "7"}, "False 7"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "False None"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", show],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            env={**kept, **given},
        )
        assert done.stdout.strip() == said
    for script in SCRIPTS:
        text = script.read_text(encoding="utf-8")
        first = re.search(r"^from (commands|registration|reporting|datasets|utils)\b", text, re.M)
        assert first[1] == "commands" or (
            "_train" not in script.name and "test" not in script.name
        ), script


def test_no_device_is_wired_in():
    for path in [
        path for package in PACKAGES for path in (REPOSITORY / package).rglob("*.py")
    ] + SCRIPTS:
        assert ".cuda()" not in path.read_text(encoding="utf-8"), path


@pytest.mark.parametrize("name, counts", [("ACDC", (3, 7)), ("LA", (4, 8))])
def test_training_scripts_of_a_data_set_differ_only_in_the_number_of_labels(name, counts):
    few, more = (
        (REPOSITORY / "code" / f"{name}_labelnum{count}_train.py")
        .read_text(encoding="utf-8")
        .split('"""')[2]
        for count in counts
    )
    assert few.replace(f"script_defaults({counts[0]})", f"script_defaults({counts[1]})") == more


@pytest.mark.parametrize(
    "dataset, labelnum, decay", [("ACDC", 3, 0.89), ("ACDC", 7, 0.95), ("LA", 8, 0.99)]
)
def test_the_published_ema_decay_depends_on_the_number_of_labels(dataset, labelnum, decay):
    assert find_dataset(dataset).script_defaults(labelnum)["ema_decay"] == decay
