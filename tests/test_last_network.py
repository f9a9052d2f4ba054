"""--select last: data with no case to spare are trained on without validation, and the last network
is the result.
"""

import json

import numpy as np
import pytest
import torch
from helpers import stages, train_any
from raw_scans import own_case, write_raw_dataset
from scripts import predict, prepare, report, run_test

from training.checkpoint import read
from utils.errors import UserError

RUN = ("--pre_iterations", "2", "--max_iterations", "2", "--val_every", "1", "--device", "cpu")
SIZES = ("--batch_size", "4", "--labeled_bs", "2", "--patch_size", "32", "16", "16")
BATCH = (*SIZES, "--method", "bcp")

pytestmark = pytest.mark.usefixtures("narrow")


@pytest.fixture(scope="module")
def one_case(tmp_path_factory):
    """One labelled and three unlabelled cases, prepared, and the raw folder."""
    raw = write_raw_dataset(
        tmp_path_factory.mktemp("raw"), {"imagesTr": 1, "imagesUn": 3, "imagesTs": 1}
    )
    root = tmp_path_factory.mktemp("prepared")
    flags = ["--dataset", "own", "--source", str(raw), "--root_path", str(root), "--workers", "1"]
    assert prepare(flags) == 0
    return raw, root


def command(root, out, *flags):
    return ["--root_path", str(root), "--output_root", str(out), *RUN, *BATCH, *flags]


@pytest.fixture(scope="module")
def trained(one_case, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    train_any(command(one_case[1], out, "--select", "last"))
    return out


def test_preparing_one_case_says_how_it_can_be_trained(one_case, tmp_path, capsys):
    raw, _ = one_case
    flags = ["--dataset", "own", "--source", str(raw), "--root_path", str(tmp_path / "out")]
    assert prepare([*flags, "--workers", "1"]) == 0
    said = capsys.readouterr().out
    assert "a single labelled case: none is left for validation. Train with --select last" in said
    assert "cross-validation needs at least two labelled cases" in said


def test_training_without_validation_cases_names_the_flag(one_case, tmp_path):
    with pytest.raises(UserError, match=r"val\.list: the list is empty; .*--select last"):
        train_any(command(one_case[1], tmp_path))


def test_the_best_checkpoint_is_the_last_network_of_every_stage(trained):
    left = stages(trained)
    for stage in ("pre_train", "self_train"):
        (best,) = [name for name in left if name.startswith(stage) and "last" not in name]
        weights = left[best]["student"]
        last = left[f"{stage}/last.pth"]["student"]
        assert all(torch.equal(weights[key], last[key]) for key in last)
        assert left[best]["progress"]["step"] == 2


def test_the_checkpoint_says_that_nothing_was_validated(trained):
    path = next(trained.rglob("self_train/*best*.pth"))
    checkpoint = read(path)
    assert checkpoint.selection == (
        "the last network of the stage, without validation (--select last): iteration 2 of "
        "self_train"
    )
    assert all("score" not in row for row in checkpoint.progress["history"])


def test_the_same_command_finds_the_run_complete(one_case, trained, capsys):
    train_any(command(one_case[1], trained, "--select", "last"))
    assert "self_train: complete, not validated, the last network is the result" in (
        capsys.readouterr().out
    )


def test_the_last_network_is_tested_and_predicted_with(one_case, trained, tmp_path):
    raw, root = one_case
    out = ["--output_dir", str(tmp_path / "test"), "--device", "cpu"]
    run_test(["--root_path", str(root), "--output_root", str(trained), *out])
    summary = json.loads((tmp_path / "test" / "summary.json").read_text(encoding="utf-8"))
    assert summary["cases"] == 1 and "--select last" in summary["checkpoint"]["selection"]
    path = next(trained.rglob("self_train/*best*.pth"))
    flags = ["--checkpoint", path, "--input", raw / "imagesTs", "--output", tmp_path / "back"]
    assert predict([str(flag) for flag in (*flags, "--device", "cpu")]) == 0
    assert (tmp_path / "back" / "ts0.nii.gz").is_file()


def test_a_report_of_the_run_shows_its_loss_and_no_validation(one_case, trained, tmp_path):
    out = tmp_path / "test"
    flags = ["--root_path", str(one_case[1]), "--output_root", str(trained)]
    run_test([*flags, "--output_dir", str(out), "--device", "cpu"])
    report(["--run", str(out), "--output", str(tmp_path / "report"), "--no-pictures"])
    dataset = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert "Training loss" in dataset and "Validation Dice" not in dataset


@pytest.mark.long
def test_a_stopped_run_without_validation_ends_as_one_in_one_go(one_case, trained, tmp_path):
    flags = ("--select", "last", "--run_mode", "pretrain")
    short = command(one_case[1], tmp_path, *flags)
    train_any(short)
    train_any(command(one_case[1], tmp_path, "--select", "last"))
    there, here = stages(trained), stages(tmp_path)
    assert there.keys() == here.keys()
    for name, content in there.items():
        for key, value in content["student"].items():
            assert np.array_equal(value.numpy(), here[name]["student"][key].numpy()), (name, key)


def test_a_validation_list_is_not_read(tmp_path):
    raw = write_raw_dataset(tmp_path / "raw", {"imagesTr": 2, "imagesUn": 2})
    own_case(raw, "imagesTs", "t", (1, 5, 7), (1.2, 0.9, 1.1), (26, 24, 20), 9)
    root = tmp_path / "out"
    flags = ["--dataset", "own", "--source", str(raw), "--root_path", str(root), "--workers", "1"]
    assert prepare(flags) == 0
    (root / "data" / "tr1.h5").unlink()  # the validation case
    flags = ("--select", "last", "--method", "supervised", "--max_iterations", "1")
    train_any(command(root, tmp_path / "runs", *flags))
    assert next((tmp_path / "runs").rglob("supervised/*best*.pth")).is_file()
