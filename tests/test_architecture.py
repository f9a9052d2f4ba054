"""The house stands as it was drawn: imports point one way, settings are read, scripts start."""

import ast
import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from recipes.coarse_labels import RegistrationSettings
from recipes.cogrnet import CoGRNetEvaluation
from recipes.evaluation import EvaluationSettings, LAEvaluation
from recipes.export import ExportSettings
from recipes.report import ReportSettings
from training.settings import METHODS, PLACE, CoGRNetSettings, Settings, SliceSettings, VolumeSettings

SETTINGS = (Settings, SliceSettings, VolumeSettings, CoGRNetSettings)
REPOSITORY = Path(__file__).parents[1]
PACKAGES = ("networks", "dataloaders", "utils", "methods", "training", "recipes")
# who may import whom: scripts -> recipes -> {methods, training, dataloaders, networks} -> utils
ARROWS = {
    "networks": {"networks"},
    "utils": {"utils"},
    "methods": {"methods", "utils"},
    "training": {"training", "utils"},
    "dataloaders": {"dataloaders", "utils"},
    "recipes": set(PACKAGES),
}
SCRIPTS = sorted([*(REPOSITORY / "code").glob("*.py"), *(REPOSITORY / "pancreas").glob("*.py")])


def imported(path: Path) -> set[str]:
    """Top-level names of what a file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
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
        wrong = imported(path) & (set(PACKAGES) | {"code", "tests", "pancreas"}) - ARROWS[package]
        assert not wrong, f"{path.relative_to(REPOSITORY)} imports {wrong}"


def test_networks_need_torch_alone():
    for path in (REPOSITORY / "networks").rglob("*.py"):
        assert imported(path) <= {"torch", "networks", "typing", "collections", "contextlib", "types", "math"}, path


def test_script_folders_are_no_packages():
    """A package named `code` would hide the standard library's and break pdb."""
    assert not list((REPOSITORY / "code").glob("__init__.py")) + list((REPOSITORY / "pancreas").glob("__init__.py"))


def attributes_read() -> set[str]:
    files = [path for package in PACKAGES for path in (REPOSITORY / package).rglob("*.py")] + SCRIPTS
    return {node.attr for path in files for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}


@pytest.mark.parametrize(
    "settings", [*SETTINGS, EvaluationSettings, LAEvaluation, CoGRNetEvaluation, RegistrationSettings, ReportSettings, ExportSettings]
)
def test_every_setting_is_read_somewhere(settings):
    unread = {field.name for field in dataclasses.fields(settings)} - attributes_read()
    assert not unread


def test_presets_and_places_name_real_settings():
    common, all_of_them = ({field.name for kind in kinds for field in dataclasses.fields(kind)} for kinds in ((Settings,), SETTINGS))
    assert {key for preset in METHODS.values() for key in preset} <= common
    assert set(PLACE) <= all_of_them


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_short_start_anywhere_and_explain_themselves(script, tmp_path):
    assert len(script.read_text().splitlines()) <= 50
    environment = {**os.environ, "PYTHONPATH": ""}
    result = subprocess.run([sys.executable, str(script), "--help"], cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    assert "usage" in result.stdout and ("RUN OUT" if script.name == "export_weights.py" else "--root") in result.stdout  # it reads no data
    assert f"python {script.parent.name}/{script.name}" in script.read_text()


def test_no_device_is_wired_in():
    for path in [path for package in PACKAGES for path in (REPOSITORY / package).rglob("*.py")] + SCRIPTS:
        assert ".cuda()" not in path.read_text(), path


@pytest.mark.parametrize(
    "name, counts, differences",
    [
        ("ACDC", (3, 7), [("labelnum=3,", "labelnum=7,"), ("ema_decay=0.89,", "ema_decay=0.95,")]),
        ("LA", (4, 8), [("labelnum=4,", "labelnum=8,")]),
    ],
)
def test_label_recipes_differ_in_labels_and_decay_alone(name, counts, differences):
    few, more = ((REPOSITORY / "code" / f"{name}_labelnum{k}_train.py").read_text().split('"""')[2].splitlines() for k in counts)
    assert [(a.strip(), b.strip()) for a, b in zip(few, more, strict=True) if a != b] == differences
