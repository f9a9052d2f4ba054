"""Cross-validation in a benchmark: the division into folds, their folders, refusals, and a table
of own data that is killed and resumed.
"""

import json
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from operator import ne
from pathlib import Path

import pytest
from benchmark_tables import TINY, assert_refused_before_anything_runs, table_settings
from helpers import ACDC, LA, PANCREAS
from raw_scans import write_raw_dataset
from scripts import check, prepare

from commands.benchmark import run, table_cells
from commands.benchmark_folds import divided, fold_root, read_splits, training_names, write_folds
from dataloaders.splits import case_of_slice
from datasets import pancreas
from datasets.acdc import DATASET
from utils.errors import UserError

CODE = Path(__file__).parents[1] / "code"
PATIENTS = [f"patient{number:03d}" for number in range(1, 8)]
CASES = [f"{patient}_frame0{frame}" for patient in PATIENTS for frame in (1, 2)]
PHANTOM_CASES = CASES[:6]


def owners(cases):
    return {case.partition("_")[0] for case in cases}


def test_every_patient_is_tested_in_exactly_one_fold():
    tested = [patient for split in divided(CASES, 3) for patient in owners(split["val"])]
    assert sorted(tested) == PATIENTS


def test_folds_differ_by_at_most_one_patient():
    assert sorted(len(owners(split["val"])) for split in divided(CASES, 3)) == [2, 2, 3]


def test_the_training_cases_of_a_fold_are_all_that_it_does_not_test():
    for split in divided(CASES, 3):
        assert sorted([*split["train"], *split["val"]]) == CASES


def test_both_frames_of_a_patient_are_in_the_same_fold():
    for split in divided(CASES, 3):
        assert owners(split["train"]) & owners(split["val"]) == set()


def test_the_division_does_not_depend_on_the_order_of_the_training_list():
    assert divided(CASES[::-1], 3) == divided(CASES, 3)


def test_more_folds_than_patients_are_refused():
    with pytest.raises(UserError, match="--folds 8: the training list has 7 patients"):
        divided(CASES, 8)


def splits_of(*tested):
    """Folds of the phantom's cases that test the cases of these patients, by number."""
    splits = []
    for numbers in tested:
        val = [case for case in PHANTOM_CASES if int(case[7:10]) in numbers]
        train = [case for case in PHANTOM_CASES if case not in val]
        splits.append({"train": train, "val": val})
    return splits


def test_an_existing_file_decides_which_patients_a_fold_tests(phantom_root, tmp_path):
    (tmp_path / "splits_final.json").write_text(json.dumps(splits_of([2], [1, 3])))
    write_folds(tmp_path, DATASET, phantom_root, count=2)
    lines = (fold_root(tmp_path, 0) / "test.list").read_text().split()
    assert lines == ["patient002_frame01", "patient002_frame02"]


def changed(part, cases):
    splits = splits_of([2], [1, 3])
    splits[0][part] = cases
    return splits


@pytest.mark.parametrize(
    "splits, message",
    [
        ({"train": [], "val": []}, 'expected a list of folds, each {"train": [...], "val": [...]}'),
        ([{"train": CASES[:2], "val": "patient003"}], "expected a list of folds"),
        (splits_of([1, 2, 3], []), "fold 0 has no case in train"),
        (splits_of([], [1, 2, 3]), "fold 0 has no case in val"),
        (splits_of([1], [2], [3]), "holds 3 folds, but --folds is 2"),
        (changed("val", ["patient009"]), "fold 0 names patient002_frame01 0 times, expected once"),
        (
            changed("val", [*CASES[2:4], "patient009"]),
            "fold 0 names patient009, which the training list does not",
        ),
        (splits_of([1, 2], [1, 3]), "patient001_frame01 is in val of 2 folds, expected one"),
        (splits_of([1], [2]), "patient003_frame01 is in val of 0 folds, expected one"),
        (
            [
                {"train": PHANTOM_CASES[1:], "val": PHANTOM_CASES[:1]},
                {"train": PHANTOM_CASES[:1], "val": PHANTOM_CASES[1:]},
            ],
            "fold 0 has cases of patient001 in train and in val",
        ),
    ],
)
def test_a_file_that_does_not_fit_the_data_is_refused_in_one_line(splits, message, tmp_path):
    path = tmp_path / "splits_final.json"
    path.write_text(json.dumps(splits))
    with pytest.raises(UserError) as caught:
        read_splits(path, PHANTOM_CASES, count=2)
    assert str(caught.value).startswith(f"{path}: ") and message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_file_is_refused_in_one_line(tmp_path):
    path = tmp_path / "splits_final.json"
    path.write_text("[{")
    with pytest.raises(UserError, match="delete it and use another --output") as caught:
        read_splits(path, PHANTOM_CASES, count=2)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def folder(phantom_root, tmp_path_factory):
    """The folder of a benchmark with three folds of the phantom."""
    output = tmp_path_factory.mktemp("folds")
    write_folds(output, DATASET, phantom_root, count=3)
    return output


def test_the_written_file_has_one_patient_of_three_in_each_fold(folder):
    splits = json.loads((folder / "splits_final.json").read_text())
    assert [len(split["val"]) for split in splits] == [2, 2, 2]
    assert read_splits(folder / "splits_final.json", PHANTOM_CASES, count=3) == splits


def test_another_folder_gets_the_same_file(folder, phantom_root, tmp_path):
    write_folds(tmp_path, DATASET, phantom_root, count=3)
    assert (tmp_path / "splits_final.json").read_bytes() == (
        folder / "splits_final.json"
    ).read_bytes()


@pytest.mark.parametrize("fold", range(3))
def test_the_lists_of_a_fold_are_those_of_the_file(folder, fold):
    split = json.loads((folder / "splits_final.json").read_text())[fold]
    root = fold_root(folder, fold)
    slices = ACDC.read_list(root, "train_slices.list")
    assert sorted(set(map(case_of_slice, slices))) == split["train"]
    assert ACDC.read_list(root, "train.list") == split["train"]
    assert ACDC.read_list(root, "test.list") == split["val"]


def test_the_validation_list_is_the_same_in_every_fold(folder, phantom_root):
    for fold in range(3):
        assert ACDC.held_out(fold_root(folder, fold), "val") == ACDC.held_out(phantom_root, "val")


def test_cases_without_labels_are_trained_on_in_every_fold(pancreas_root, tmp_path):
    """Two folds of four labelled volumes; the list of unlabelled ones is not divided."""
    write_folds(tmp_path, pancreas.DATASET, pancreas_root, count=2)
    for fold in range(2):
        root = fold_root(tmp_path, fold)
        assert PANCREAS.never_labelled(root) == PANCREAS.never_labelled(pancreas_root)
        assert len(PANCREAS.read_list(root, PANCREAS.train_list)) == 2


def test_unlabelled_scans_of_a_tested_patient_are_not_trained_on(pancreas_root, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(pancreas_root, root)
    tested = PANCREAS.read_list(root, PANCREAS.train_list)[0]
    path = next(root.rglob(PANCREAS.unlabelled_list))
    path.write_text(f"{path.read_text().rstrip()}\n{tested}_frame07\n")
    (tmp_path / "table").mkdir()
    write_folds(tmp_path / "table", pancreas.DATASET, root, count=2)
    for fold in range(2):
        split = json.loads((tmp_path / "table" / "splits_final.json").read_text())[fold]
        unlabelled = PANCREAS.never_labelled(fold_root(tmp_path / "table", fold))
        assert (f"{tested}_frame07" in unlabelled) == (tested in split["train"])


def test_the_data_check_accepts_the_folder_of_a_fold(folder):
    assert check(["--dataset", "ACDC", "--root_path", str(fold_root(folder, 0))]) in (0, None)


def test_the_labelled_cases_are_drawn_for_each_fold():
    """The same training cases are in another order in another fold."""
    cases = [f"scan{number}" for number in range(10)]
    first = training_names(LA, cases, cases, fold=0)
    second = training_names(LA, cases, cases, fold=1)
    assert sorted(first) == sorted(second) == cases
    assert first != second


def test_the_slices_of_a_training_patient_stay_together(folder):
    slices = ACDC.read_list(fold_root(folder, 0), "train_slices.list")
    patients = [name.partition("_")[0] for name in slices]
    assert len(set(patients)) == 1 + sum(map(ne, patients, patients[1:]))


settings = partial(table_settings, methods=("bcp",), folds=2, max_iterations=1)


def test_each_method_label_count_and_seed_has_a_run_in_each_fold(phantom_root, tmp_path):
    cells = table_cells(settings(phantom_root, tmp_path, seeds=(4, 5)), TINY)
    assert [cell.name for cell in cells] == [
        "bcp_1_fold0_seed4",
        "bcp_1_fold1_seed4",
        "bcp_1_fold0_seed5",
        "bcp_1_fold1_seed5",
    ]


@pytest.mark.parametrize(
    "values, flags, message",
    [
        ({"folds": 1}, (), "--folds 1: use at least 2, or 0 for the test list"),
        ({"folds": -3}, (), "--folds -3: use at least 2"),
        ({"folds": 4}, (), "--folds 4: the training list has 3 patients; use fewer folds"),
        (
            {"labelnums": (3,)},
            (),
            "--labelnum 3: the training list has 1 patients, choose 1 to 1",
        ),
        ({}, ("--select", "test"), "add --select last or --select val after --"),
        ({"folds": 0}, ("--select", "test"), "add --select last or --select val after --"),
        (
            {"test_selected": True},
            ("--select", "last"),
            "--test_selected tests the validated networks, but --select last has no validation",
        ),
    ],
)
def test_what_cannot_run_is_one_line_before_anything_runs(
    values, flags, message, phantom_root, tmp_path
):
    table = settings(phantom_root, tmp_path / "table", **values)
    assert_refused_before_anything_runs(table, [*TINY, *flags], message)


def test_training_patients_without_volumes_are_refused(phantom_root, tmp_path):
    shutil.copytree(phantom_root, tmp_path / "data")
    (tmp_path / "data/data/patient002_frame01.h5").unlink()
    with pytest.raises(UserError, match=r"patient002_frame01.h5: no such file, and 1 of 6"):
        run(settings(tmp_path / "data", tmp_path / "table"), TINY)


def command(root, output):
    """A table of own data: 2 methods x 2 seeds x 2 folds."""
    words = ["--root_path", str(root), "--output", str(output), "--methods", "bcp", "mean_teacher"]
    words += ["--labelnums", "1", "--seeds", "1", "2", "--folds", "2", "--jobs", "2"]
    words += ["--pre_iterations", "3", "--max_iterations", "4", "--"]
    return [sys.executable, str(CODE / "benchmark.py"), *words, *TINY]


@pytest.mark.long
def test_a_killed_and_resumed_cross_validation_of_own_data_equals_an_uninterrupted_one(tmp_path):
    """SIGTERM after the first of eight runs, then the same command."""
    raw = write_raw_dataset(tmp_path / "raw", {"imagesTr": 5, "imagesUn": 2, "imagesTs": 1})
    words = ["--dataset", "own", "--source", str(raw), "--root_path", str(tmp_path / "data")]
    assert prepare([*words, "--dims", "2", "--workers", "1"]) == 0
    subprocess.run(command(tmp_path / "data", tmp_path / "whole"), check=True)
    output = tmp_path / "resumed"
    process = subprocess.Popen(command(tmp_path / "data", output))
    while not list((output / "records").glob("*.json")):
        assert process.poll() is None
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=300) == 143
    assert 0 < len(list((output / "records").glob("*.json"))) < 8
    subprocess.run(command(tmp_path / "data", output), check=True)
    resumed = json.loads((output / "leaderboard.json").read_text())
    assert resumed == json.loads((tmp_path / "whole" / "leaderboard.json").read_text())
    assert [row["seeds"] for row in resumed["tables"][0]["rows"]] == [[1, 2], [1, 2]]
    assert resumed["tables"][0]["cases"] == 4
