"""The folder of a test: predictions, metrics.csv and summary.json, which are replaced together."""

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from commands.run_folder import rename_aside
from commands.runs import BEST_NAME
from evaluation.results import METRICS_FILE, SUMMARY_FILE
from training.checkpoint import VALIDATED, Checkpoint
from utils.errors import UserError
from utils.files import check_plain
from utils.json_file import read_json
from utils.lock import only_writer
from utils.messages import message
from utils.names import csv_text

PREDICTION = "_pred.nii.gz"
USUAL = {"amp": "off", "blend": "uniform", "interpolation": "nearest", "accelerate": "off"}
"""What results that do not record these settings were made with."""
REMEDY = "free space or name another folder with --output_dir"


def test_folder(parent: Path, stage: str | None, checkpoint: str, split: str) -> Path:
    """Where a test is kept below `parent`: test/<stage>_<checkpoint>_<split>.

    `parent`: the folder of a run or of a checkpoint file. The stage of a published checkpoint is
    not known and is omitted.
    """
    name = "_".join(part for part in (stage, checkpoint, split) if part)
    check_plain("checkpoint", name)
    return parent / "test" / name


def with_network(checkpoint: str, network: str | None) -> str:
    """The name of a checkpoint, followed by that of the network if `--network` names one."""
    if network is None:
        return checkpoint
    return f"{checkpoint}_{network}"


def folder_of_file(
    path: Path, checkpoint: Checkpoint, split: str, network: str | None = None
) -> Path:
    """Where the test of a checkpoint file is kept; `network`: as named by `--network`.

    With the run's other tests if the file is in the folder of its stage (or in the folder there
    that --keep_validated fills), otherwise next to it.
    """
    stage = checkpoint.stage
    if path.parent.name == VALIDATED and path.absolute().parents[1].name == stage:
        name = with_network(f"{VALIDATED}_{path.stem}", network)
        return test_folder(path.parents[2], stage, name, split)
    if stage is None or path.absolute().parent.name != stage:
        return test_folder(path.parent, stage, with_network(path.stem, network), split)
    name = path.stem
    if BEST_NAME.fullmatch(path.name):
        name = "best"
    return test_folder(path.parent.parent, stage, with_network(name, network), split)


def check_output(folder: Path, made_with: Mapping[str, object], cases: Sequence[str]) -> None:
    """Raise UserError if the folder holds the results of another test.

    Results of an earlier or interrupted attempt at the same test are accepted. `made_with`: what
    the results depend on. `cases`: names of the cases.
    """
    difference = other_results(folder, made_with, cases)
    if difference:
        raise UserError(
            f"--output_dir {folder}: holds the results of another test ({difference}); name "
            f"another folder, or move them away"
        )


def set_aside_others(folder: Path, made_with: Mapping[str, object], cases: Sequence[str]) -> None:
    """Rename the default folder of a test if it holds the results of another one.

    For example those of an earlier best checkpoint.
    """
    difference = other_results(folder, made_with, cases)
    if not difference:
        return
    with only_writer(folder, "name another folder with --output_dir"):
        pass  # nobody is writing there
    aside = rename_aside(folder, "move it by hand, or name another folder with --output_dir")
    message(f"{folder} held another test's results ({difference}); they are now in {aside}")


def other_results(folder: Path, made_with: Mapping[str, object], cases: Sequence[str]) -> str:
    """Describe how the results in the folder differ from those of this test.

    Empty if there are none, or if they are of the same test.
    """
    if (folder / SUMMARY_FILE).exists():
        difference = _difference(folder / SUMMARY_FILE, made_with)
        if difference:
            return difference
    names = set(cases)
    for path in sorted(folder.glob(f"*{PREDICTION}")):
        if path.name.removesuffix(PREDICTION) not in names:
            return f"{path.name} is of another case"
    if not _cases_of(folder / METRICS_FILE) <= names:
        return f"{METRICS_FILE} has different cases"
    return ""


def _difference(path: Path, made_with: Mapping[str, object]) -> str:
    """The first difference between `made_with` and the same entries of a summary.json."""
    try:
        before = {**USUAL, **_made_with(read_json(path), list(made_with))}
        now = {**USUAL, **made_with}
        for key, value in now.items():
            if key not in before or before[key] == value:
                continue
            if key == "checkpoint":
                return "of another checkpoint"
            if key == "data":
                return "of different data"
            return f"{key} {before[key]}, now {value}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{path.name} is another program's, or damaged"
    return ""


def _made_with(summary: Mapping[str, Any], keys: Sequence[str]) -> Mapping[str, Any]:
    """What the results of a summary.json depend on.

    Older ones do not record it as such, but have some of the keys.
    """
    recorded = summary.get("made_with")
    if recorded:
        return recorded
    earlier = {key: summary[key] for key in keys if key in summary}
    return earlier | {"checkpoint": summary["checkpoint"]["sha256"]}


def _cases_of(metrics: Path) -> set[str]:
    """The cases of a metrics.csv.

    The set is empty if the file is missing. It holds one empty name if the file is damaged or lacks
    the column `case`.
    """
    if not metrics.exists():
        return set()
    try:
        with open(metrics, newline="", encoding="utf-8") as file:
            return {csv_text(row["case"]) for row in csv.DictReader(file)}
    except (OSError, ValueError, KeyError, csv.Error):
        return {""}


def move_results(finished: Path, folder: Path) -> None:
    """Move the files of a finished test into its folder; raises OSError.

    The predictions are moved first, then metrics.csv, then summary.json, whose presence means that
    all are there.
    """
    order = {METRICS_FILE: 1, SUMMARY_FILE: 2}
    paths = sorted(finished.iterdir(), key=lambda path: (order.get(path.name, 0), path.name))
    for path in paths:
        os.replace(path, folder / path.name)
