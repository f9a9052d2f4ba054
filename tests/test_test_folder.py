"""Each test of a run has its own folder, and its predictions, metrics.csv and summary.json are
replaced together.
"""

import errno
import hashlib
import json
import os
import shutil
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from helpers import ACDC
from reference import filled_state_dict
from scripts import evaluate

from commands.test_folder import folder_of_file, other_results
from dataloaders.phantom.write import write_acdc_phantom
from datasets.acdc import DATASET
from evaluation import results
from evaluation.scores import score_masks
from reporting.tested_run import read_result
from training import device
from training.checkpoint import Checkpoint
from utils import files
from utils.errors import UserError

RUN = "BCP/ACDC_BCP_3_labeled"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Data, and a run with published weights for both stages, tested once."""
    place = tmp_path_factory.mktemp("made")
    write_acdc_phantom(place / "data", train=1, val=1, test=1, size=48, slices=(5, 5))
    weights = filled_state_dict("unet_bcp")
    bias = "decoder.out_conv.bias"
    for stage, shift in (("self_train", 0), ("pre_train", 1)):
        path = place / "model" / RUN / stage / "unet_best_model.pth"
        path.parent.mkdir(parents=True)
        torch.save(weights | {bias: weights[bias] + shift}, path)
    run_test(place)
    return place


@pytest.fixture
def place(made, tmp_path):
    return shutil.copytree(made, tmp_path / "made")


def run_test(place, *flags):
    evaluate(
        DATASET,
        [*map(str, flags), "--patch_size", "32", "32", "--device", "cpu"],
        root_path=place / "data",
        output_root=place / "model",
    )


def folders_of(place):
    return {path.name: content(path) for path in (place / "model" / RUN / "test").iterdir()}


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def summary_of(folder):
    return json.loads((folder / "summary.json").read_text(encoding="utf-8"))


def full_disk(*arguments):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_tests_of_another_split_stage_or_checkpoint_leave_the_first_one_as_it_was(place):
    before = folders_of(place)
    assert set(before) == {"self_train_best_test"}
    best = place / "model" / RUN / "self_train" / "unet_best_model.pth"
    shutil.copy(best, best.with_name("last.pth"))
    run_test(place, "--split", "val")
    run_test(place, "--stage_name", "pre_train")
    run_test(place, "--which", "last")
    after = folders_of(place)
    assert after["self_train_best_test"] == before["self_train_best_test"]
    assert set(after) == {
        "self_train_best_test",
        "self_train_best_val",
        "pre_train_best_test",
        "self_train_last_test",
    }
    splits = [json.loads(files["summary.json"])["split"] for files in after.values()]
    assert sorted(splits) == ["test.list"] * 3 + ["val.list"]


def test_a_test_with_another_nsd_tolerance_replaces_the_first_one(place):
    run_test(place, "--nsd_tolerance", "3", "left ventricle=1.5")
    (folder,) = (place / "model" / RUN / "test").iterdir()
    assert summary_of(folder)["nsd_tolerance"] == {
        "right ventricle": 3.0,
        "myocardium": 3.0,
        "left ventricle": 1.5,
    }


def test_a_test_refuses_an_nsd_tolerance_of_an_unknown_class(place):
    with pytest.raises(UserError, match="--nsd_tolerance liver=3: no such class"):
        run_test(place, "--nsd_tolerance", "liver=3")


def test_predictions_of_two_splits_are_not_mixed(place):
    run_test(place, "--split", "val")
    for name, split in (("self_train_best_test", "test"), ("self_train_best_val", "val")):
        cases = {f"{case}_pred.nii.gz" for case in ACDC.read_list(place / "data", f"{split}.list")}
        assert set(folders_of(place)[name]) == cases | {"metrics.csv", "summary.json"}


def test_a_test_has_the_published_arithmetic_unless_flags_name_another(place):
    recorded = summary_of(place / "model" / RUN / "test" / "self_train_best_test")
    assert not {"amp", "blend", "interpolation", "accelerate"} & set(
        recorded | recorded["made_with"]
    )


def test_a_test_in_half_precision_sets_results_in_float32_aside(place, monkeypatch):
    monkeypatch.setattr(device, "has_bf16", lambda device: True)
    folder = place / "model" / RUN / "test" / "self_train_best_test"
    before = content(folder)
    run_test(place, "--amp", "bf16", "--accelerate", "fold")
    summary = summary_of(folder)
    assert (summary["amp"], summary["accelerate"]) == ("bfloat16", "fold")
    (aside,) = [path for path in folder.parent.iterdir() if path != folder]
    assert content(aside) == before


def test_results_in_half_precision_are_set_aside_by_a_test_in_float32(place):
    folder = place / "model" / RUN / "test" / "self_train_best_test"
    run_test(place, "--accelerate", "fold")
    run_test(place)
    assert "accelerate" not in summary_of(folder)
    assert len(folders_of(place)) == 3


def test_results_with_linear_interpolation_are_recorded_and_others_are_set_aside(place):
    folder = place / "model" / RUN / "test" / "self_train_best_test"
    before = content(folder)
    run_test(place, "--interpolation", "linear")
    assert summary_of(folder)["interpolation"] == "linear"
    (aside,) = [path for path in folder.parent.iterdir() if path != folder]
    assert content(aside) == before
    assert content(folder)["metrics.csv"] != before["metrics.csv"]


def test_slices_cannot_be_blended(place):
    with pytest.raises(UserError, match="--blend: the predictor of ACDC has no such option"):
        run_test(place, "--blend", "gaussian")


def test_a_checkpoint_file_is_tested_next_to_itself(place, tmp_path):
    weights = tmp_path / "downloads" / "best_of_all.pth"
    weights.parent.mkdir()
    shutil.copy(place / "model" / RUN / "self_train" / "unet_best_model.pth", weights)
    run_test(place, "--checkpoint", weights)
    folder = weights.parent / "test" / "best_of_all_test"
    assert summary_of(folder)["checkpoint"]["path"] == str(weights)


@pytest.mark.parametrize(
    "name, expected",
    [
        ("last.pth", "self_train_last_val"),
        ("unet_best_model.pth", "self_train_best_val"),
        ("iter_30.pth", "self_train_iter_30_val"),
        ("validated/30.pth", "self_train_validated_30_val"),
    ],
)
def test_a_checkpoint_file_of_a_run_is_tested_with_the_other_tests_of_the_run(name, expected):
    path = Path("runs") / RUN / "self_train" / name
    checkpoint = Checkpoint(
        path=path, weights={}, optimizer=None, settings={}, info={}, stage="self_train"
    )
    assert folder_of_file(path, checkpoint, "val") == Path("runs") / RUN / "test" / expected


def test_an_output_folder_with_the_results_of_another_test_is_refused(place, tmp_path):
    out = tmp_path / "out"
    run_test(place, "--output_dir", out)
    before = content(out)
    for flags, difference in (
        (("--split", "val"), "split test.list, now val.list"),
        (("--stage_name", "pre_train"), "of another checkpoint"),
    ):
        with pytest.raises(UserError, match=f"--output_dir .*out: holds.*{difference}"):
            run_test(place, "--output_dir", out, *flags)
    for path in (place / "data" / "data").glob("*.h5"):
        with h5py.File(path, "a") as file:
            file["image"][0] = 0
    with pytest.raises(UserError, match="of different data"):
        run_test(place, "--output_dir", out)
    assert content(out) == before


def test_an_output_folder_with_other_files_of_results_is_refused(place, tmp_path):
    for name, text in (
        ("summary.json", '{"metric_per_case": []}'),
        ("summary.json", "[1, 2"),
        ("patient999_pred.nii.gz", "x"),
        ("metrics.csv", "case,class\npatient999,heart\n"),
        ("metrics.csv", "a,b\n1,2\n"),
    ):
        out = tmp_path / f"{name}{len(text)}"
        out.mkdir()
        (out / name).write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=r"--output_dir .* holds the results of another test"):
            run_test(place, "--output_dir", out)
        assert content(out) == {name: text.encode()}


def test_the_same_test_may_be_repeated_and_other_files_stay(place):
    folder = place / "model" / RUN / "test" / "self_train_best_test"
    (folder / "notes.txt").write_text("mine", encoding="utf-8")
    before = summary_of(folder)
    (folder / "metrics.csv").unlink()
    run_test(place)
    after = summary_of(folder)
    assert after["made_with"] == before["made_with"] and (folder / "metrics.csv").is_file()
    assert (folder / "notes.txt").read_text(encoding="utf-8") == "mine"


def test_results_of_an_earlier_best_checkpoint_are_moved_aside(place, capsys):
    run = place / "model" / RUN
    before = content(run / "test" / "self_train_best_test")
    shutil.copy(
        run / "pre_train" / "unet_best_model.pth", run / "self_train" / "unet_best_model.pth"
    )
    run_test(place)
    assert "of another checkpoint); they are now in" in capsys.readouterr().out
    (aside,) = (run / "test").glob("self_train_best_test.*")
    assert content(aside) == before
    assert content(run / "test" / "self_train_best_test")["summary.json"] != before["summary.json"]


def test_a_summary_without_what_it_was_made_with_counts_by_what_it_holds(place):
    folder = place / "model" / RUN / "test" / "self_train_best_test"
    summary = summary_of(folder)
    made_with = summary.pop("made_with")
    results.write_json(folder / "summary.json", summary)
    cases = ACDC.read_list(place / "data", "test.list")
    assert other_results(folder, made_with, cases) == ""
    assert other_results(folder, made_with | {"checkpoint": "0"}, cases) == "of another checkpoint"
    assert "split" in other_results(folder, made_with | {"split": "val.list"}, cases)


def test_the_summary_holds_the_hashes_of_its_metrics_and_predictions(place):
    folder = place / "model" / RUN / "test" / "self_train_best_test"
    summary = summary_of(folder)
    metrics = (folder / "metrics.csv").read_bytes()
    assert summary["metrics_sha256"] == hashlib.sha256(metrics).hexdigest()
    for case, digest in summary["prediction_sha256"].items():
        prediction = (folder / f"{case}_pred.nii.gz").read_bytes()
        assert digest == hashlib.sha256(prediction).hexdigest()


def test_a_disk_that_is_full_between_the_two_files_changes_nothing(place, monkeypatch):
    folder = place / "model" / RUN / "test" / "self_train_best_test"
    before = content(folder)
    written = []

    def second_fails(path, data):
        if written:
            full_disk()
        written.append(path)
        path.write_bytes(data)

    monkeypatch.setattr(results, "_write_to_disk", second_fails)
    with pytest.raises(UserError, match=r"No space left.*--output_dir"):
        run_test(place)
    assert written and content(folder) == before
    assert [path.name for path in folder.iterdir() if path.is_dir()] == []


def result(side):
    """Scores of a cube of four voxels a side and a prediction of `side`, and their summary."""
    truth = np.zeros((8, 8, 8), bool)
    truth[:4, :4, :4] = True
    prediction = np.zeros_like(truth)
    prediction[:side, :4, :4] = True
    scores = [score_masks("case", "organ", prediction, truth, None)]
    return scores, results.summarise(scores) | {"cases": 1}


@pytest.mark.parametrize("renamings", [0, 1, 2])
def test_what_an_interruption_between_the_renamings_leaves_is_one_test_or_refused(
    tmp_path, monkeypatch, renamings
):
    results.write_results(tmp_path, *result(side=4))  # Dice 1
    renamed = []

    def rename(source, target):
        if len(renamed) == renamings:
            full_disk()
        renamed.append(target)
        os.rename(source, target)

    with monkeypatch.context() as patch, suppress(OSError):
        patch.setattr(files.os, "replace", rename)
        results.write_results(tmp_path, *result(side=2))  # Dice 2 * 2 / (2 + 4) = 2 / 3
    assert len(renamed) == renamings
    if renamings == 1:
        with pytest.raises(UserError, match=r"metrics\.csv: does not belong to"):
            read_result(tmp_path)
        return
    dice = {0: 1.0, 2: 2 / 3}[renamings]
    read = read_result(tmp_path)
    assert read.values["honest"]["dice"][0, 0] == pytest.approx(dice, abs=1e-6)
    assert read.means("honest")["mean"]["dice"] == pytest.approx(dice)
