"""A table of runs on a phantom: cells, resuming, failures, and jobs through submitit."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import h5py
import pytest
from benchmark_tables import TINY, assert_refused_before_anything_runs
from benchmark_tables import table_settings as settings
from helpers import ACDC

from commands.benchmark import TableProgress, table_cells
from commands.benchmark_cell import complete_cell, equal_time_lengths, is_complete, length_flags
from reporting.record import read_record
from utils.errors import UserError

CODE = Path(__file__).parents[1] / "code"


@pytest.mark.parametrize(
    "method, flags",
    [
        ("bcp", ["--pre_iterations", "600", "--max_iterations", "1200"]),
        ("supervised", ["--pre_iterations", "600", "--max_iterations", "1200"]),
        ("ua_mt", ["--max_iterations", "1800"]),
    ],
)
def test_every_method_makes_the_same_number_of_iterations(method, flags):
    assert length_flags(method, 600, max_iterations=1200) == flags


COSTS = {
    "bcp": {"time": 1.0, "pre_time": 0.5},
    "abd": {"time": 4.0, "pre_time": 0.5},
    "ua_mt": {"time": 3.0},
    "supervised": {"time": 0.5},
}


@pytest.mark.parametrize(
    "method, lengths",
    [
        ("bcp", (600, 1200)),  # 600 * 0.5 + 1200 = 1500 steps of BCP
        ("ua_mt", (167, 333)),  # 1500 / 3 = 500 in all
        ("supervised", (1000, 2000)),
        ("abd", (176, 353)),  # 600 * 0.5 + 1200 * 4 = 5100
    ],
)
def test_at_equal_time_a_method_makes_as_many_iterations_as_the_baseline_leaves_time_for(
    method, lengths
):
    found = equal_time_lengths(method, 600, max_iterations=1200, baseline="bcp", costs=COSTS)
    assert found == lengths


def test_equal_time_needs_the_costs_of_the_method():
    with pytest.raises(UserError, match="--equal_time: --costs has no time of cps"):
        equal_time_lengths("cps", 600, max_iterations=1200, baseline="bcp", costs=COSTS)


def test_a_cell_has_the_numbers_of_the_published_script_for_its_labels(phantom_root, tmp_path):
    cells = table_cells(
        settings(phantom_root, tmp_path, methods=("edge_guided", "bcp"), labelnums=(3,)), TINY
    )
    decays = [cell.config(cell.spec()).method.ema_decay for cell in cells]
    assert decays == [0.89, 0.99]


def test_flags_of_one_method_and_label_count_reach_only_its_cells(phantom_root, tmp_path):
    chosen = settings(
        phantom_root,
        tmp_path,
        labelnums=(1, 2),
        method_flags=("bcp --ema_decay 0.5", "bcp:2 --ema_decay 0.25"),
    )
    decays = {
        cell.name: cell.config(cell.spec()).method.ema_decay for cell in table_cells(chosen, TINY)
    }
    assert decays == {
        "bcp_1_seed1": 0.5,
        "mean_teacher_1_seed1": 0.99,
        "bcp_2_seed1": 0.25,
        "mean_teacher_2_seed1": 0.99,
    }


@pytest.mark.parametrize(
    "values, flags, message",
    [
        ({"methods": ()}, (), "--methods: name at least one"),
        ({"methods": ("bpc",)}, (), "--methods bpc"),
        ({"seeds": (1, 1)}, (), "--seeds: names one twice"),
        ({"jobs": 0}, (), "--jobs 0: must be at least 1"),
        ({"slurm": ("timeout_min=3",)}, (), "--slurm: needs --cluster slurm"),
        ({"cluster": "slurm", "slurm": ("gpu",)}, (), "--slurm gpu: write NAME=VALUE"),
        ({}, ("--seed", "3"), "--seed after --: the benchmark sets this flag; use --seeds"),
        ({}, ("--run_mode", "pretrain"), "--run_mode after --: the benchmark sets this flag"),
        ({}, ("--u_weight", "3"), "--u_weight: it belongs to --method"),
        ({"method_flags": ("cps --base_lr 1",)}, (), "cps is not one of --methods"),
        ({"method_flags": ("bcp:7 --base_lr 1",)}, (), "7 is not one of --labelnums"),
        ({"method_flags": ("bcp --exp x",)}, (), "--exp in --method_flags bcp"),
        ({"labelnums": (4,)}, (), "--labelnum 4: the training list has 3 patients"),
        ({"dataset": "", "root_path": None}, (), "--dataset: name a public data set"),
        ({"root_path": Path("nowhere")}, (), "nowhere: no such folder; put the ACDC data there"),
    ],
)
def test_what_cannot_run_is_one_line_before_anything_runs(
    values, flags, message, phantom_root, tmp_path
):
    table = settings(phantom_root, tmp_path / "table", **values)
    assert_refused_before_anything_runs(table, [*TINY, *flags], message)


@pytest.fixture(scope="module")
def cell(phantom_root, tmp_path_factory):
    """A finished cell."""
    output = tmp_path_factory.mktemp("table")
    (cell,) = table_cells(settings(phantom_root, output, methods=("bcp",)), TINY)
    complete_cell(cell, test_selected=False)
    return cell


def test_a_record_holds_the_scores_of_each_case_of_both_checkpoints(cell):
    record = read_record(cell.record)
    assert list(record.tests) == ["best", "last"]
    assert record.tests["last"].iteration == 2
    assert record.tests["best"].array("dice").shape == (2, 3)
    assert record.tests["best"].split == "test.list"
    assert record.trained_commit == record.about["git_commit"]


def test_a_record_holds_every_validation_and_no_path_of_the_machine(cell, tmp_path_factory):
    record = read_record(cell.record)
    steps = [[row["step"] for row in stage["history"]] for stage in record.stages]
    assert steps == [[1], [1, 2]]
    assert str(tmp_path_factory.getbasetemp()) not in json.dumps(record.options)


def test_a_finished_cell_is_complete_until_the_test_selected_result_is_asked_for(cell):
    assert is_complete(cell, cell.spec(), test_selected=False)
    assert not is_complete(cell, cell.spec(), test_selected=True)


def test_the_test_selected_result_is_the_best_of_all_validated_networks(cell):
    complete_cell(cell, test_selected=True)
    record = read_record(cell.record)
    assert record.test_dice.keys() == {"1", "2"}
    assert record.tests["test_selected"].mean("dice") == max(record.test_dice.values())
    assert record.tests["last"].mean("dice") == record.test_dice["2"]


def test_a_record_with_other_options_is_refused(cell, phantom_root):
    (other,) = table_cells(
        settings(phantom_root, cell.output, methods=("bcp",)), [*TINY, "--base_lr", "0.5"]
    )
    with pytest.raises(UserError, match=r"bcp_1_seed1.json: was made with --base_lr 0.01, now 0.5"):
        is_complete(other, other.spec(), test_selected=False)


def test_a_record_of_other_data_is_refused(cell, phantom_root, tmp_path):
    root = tmp_path / "other"
    shutil.copytree(phantom_root, root)
    lines = (root / "test.list").read_text().split()
    (root / "test.list").write_text("\n".join(lines[1:]) + "\n")
    other = replace(cell, root_path=root)
    with pytest.raises(
        UserError, match=r"bcp_1_seed1.json: was tested on data different from those in"
    ):
        is_complete(other, other.spec(), test_selected=False)


def test_a_record_of_changed_files_is_refused(cell, phantom_root, tmp_path):
    root = tmp_path / "other"
    shutil.copytree(phantom_root, root)
    case = (root / "test.list").read_text().split()[0]
    with h5py.File(ACDC.path(root, case), "r+") as file:
        file["image"][0, 0, 0] += 1.0
    other = replace(cell, root_path=root)
    with pytest.raises(
        UserError, match=r"bcp_1_seed1.json: was tested on data different from those in"
    ):
        is_complete(other, other.spec(), test_selected=False)


def test_a_record_with_another_start_is_refused(cell, phantom_root):
    (checkpoint,) = (cell.output / "runs").rglob("pre_train/last.pth")
    (other,) = table_cells(
        settings(phantom_root, cell.output, methods=("bcp",)), [*TINY, "--init", str(checkpoint)]
    )
    with pytest.raises(UserError, match=r"bcp_1_seed1.json: was made with another --init"):
        is_complete(other, other.spec(), test_selected=False)


def test_the_remaining_time_follows_from_finished_cells_of_the_method(phantom_root, tmp_path):
    cells = table_cells(settings(phantom_root, tmp_path, seeds=(1, 2, 3)), TINY)
    logs = tmp_path / "logs"
    logs.mkdir()
    for one, seconds in ((cells[0], "60\n60"), (cells[1], "30")):
        (logs / f"{one.name}.seconds").write_text(seconds)
    progress = TableProgress(cells, cells[2:], jobs=2)
    # two cells of 120 s and two of 30 s, two at a time
    assert progress.start() == "6 runs, 2 done; about 00:02:30 left"


def test_the_remaining_time_of_cells_that_are_only_tested_follows_from_such_tests(
    cell, phantom_root, tmp_path, capsys
):
    chosen = settings(phantom_root, tmp_path, methods=("bcp",), seeds=(1, 2, 3))
    cells = table_cells(chosen, TINY)
    (tmp_path / "records").mkdir()
    (tmp_path / "logs").mkdir()
    for one, seconds in zip(cells, ("60", "100", "110"), strict=True):
        shutil.copy(cell.record, one.record)
        one.seconds_file.write_text(seconds)
    progress = TableProgress(cells, cells, jobs=1)
    assert progress.start() == "3 runs, 0 done"
    cells[0].seconds_file.write_text("60\n20")
    progress.finished(cells[0], failure="")
    # 60 s of training and 20 s of tests; two cells are left
    assert capsys.readouterr().out.endswith("00:01:20; about 00:00:40 left\n")


def command(root, output, *flags):
    words = ["--dataset", "ACDC", "--root_path", str(root), "--output", str(output), "--methods"]
    words += ["bcp", "mean_teacher", "--labelnums", "1", "--seeds", "1", "--jobs", "2"]
    words += ["--pre_iterations", "3", "--max_iterations", "4", *flags, "--", *TINY]
    return [sys.executable, str(CODE / "benchmark.py"), *words]


def numbers(output):
    """leaderboard.json without what depends on the time."""
    return json.loads((output / "leaderboard.json").read_text())["tables"]


@pytest.mark.long
def test_a_killed_and_resumed_table_equals_an_uninterrupted_one(phantom_root, tmp_path):
    """SIGTERM in the middle, then the same command; the second table of eight cells is the same."""
    flags = ["--labelnums", "1", "2", "--seeds", "1", "2"]
    subprocess.run(command(phantom_root, tmp_path / "whole", *flags), check=True)
    output = tmp_path / "resumed"
    process = subprocess.Popen(command(phantom_root, output, *flags))
    while not list((output / "records").glob("*.json")):
        assert process.poll() is None
        time.sleep(0.2)
    time.sleep(2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) == 143
    count = len(list((output / "records").glob("*.json")))
    assert 0 < count < 8
    subprocess.run(command(phantom_root, output, *flags), check=True)
    assert numbers(output) == numbers(tmp_path / "whole")
    assert (output / "leaderboard.md").read_text() == (
        tmp_path / "whole/leaderboard.md"
    ).read_text()


@pytest.mark.long
def test_a_failed_cell_is_reported_and_does_not_stop_the_others(phantom_root, tmp_path):
    """The loss of mean teacher is not finite; BCP finishes, and the status is 2."""
    flags = ["--method_flags", "mean_teacher --base_lr 1e18"]
    process = subprocess.run(
        command(phantom_root, tmp_path / "table", *flags), capture_output=True, text=True
    )
    assert process.returncode == 2
    assert process.stderr.count("failed: mean_teacher_1_seed1: ") == 1
    assert "the loss is" in process.stderr
    assert process.stderr.splitlines()[-1].startswith("error: 1 run failed (mean_teacher_1_seed1)")
    (first, *_) = numbers(tmp_path / "table")
    assert [row["method"] for row in first["rows"]] == ["bcp"]


@pytest.mark.long
def test_the_jobs_of_submitit_give_the_same_table(phantom_root, tmp_path):
    subprocess.run(command(phantom_root, tmp_path / "processes"), check=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    flags = ["--cluster", "local", "--slurm", "timeout_min=10"]
    subprocess.run(command(phantom_root, tmp_path / "jobs", *flags), check=True, env=environment)
    assert numbers(tmp_path / "jobs") == numbers(tmp_path / "processes")
