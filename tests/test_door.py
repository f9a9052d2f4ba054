"""The Python door: its functions return what the scripts write, print nothing and never exit."""

import ast
import csv
import dataclasses
import inspect
import json
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import threshold
from helpers import LA, assert_same, train_any
from raw_scans import ORIENTATIONS, write_scan
from scripts import predict

import fewlabels
from commands.check import CheckSettings
from commands.compare import CompareSettings, ReportSettings
from commands.evaluate import ScoringSettings
from commands.export import ExportSettings
from commands.export_model import ExportModelSettings
from commands.make_phantom import PhantomSettings
from commands.predict_settings import PredictSettings
from commands.prepare import PrepareSettings
from commands.suggest import SuggestSettings
from evaluation.settings import EvaluationSettings
from registration.settings import RegistrationSettings
from training.checkpoint import load
from utils.messages import LOGGER, Log, Terminal, message

pytestmark = pytest.mark.usefixtures("narrow")

REPOSITORY = Path(__file__).resolve().parents[1]
NOTEBOOK = REPOSITORY / "docs" / "notebooks" / "quickstart.ipynb"
SHAPE = (21, 18, 15)
PATCH = (8, 10, 6)
SPACING = (1.5, 0.8, 2.5)
OPTIONS = {
    "method": "bcp", "patch_size": [80, 80], "batch_size": 4, "labeled_bs": 2, "pre_iterations": 2, "max_iterations": 2,
    "val_every": 2, "device": "cpu",
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def no_terminal():
    """Messages go to the logger, as in a notebook."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("utils.messages._usual", Log(LOGGER, shows_progress=True))
        yield


@pytest.fixture
def threshold_networks(monkeypatch):
    """Networks that find class 1 where the prepared image is above 0 can be loaded."""
    threshold.register(monkeypatch)


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """A phantom of own scans: two labelled and two unlabelled patients, one for validation and one
    for the test.
    """
    root = tmp_path_factory.mktemp("door") / "raw"
    return fewlabels.make_phantom(
        root, train=4, val=1, test=1, labelled=2, size=(48,), progress=False
    )


@pytest.fixture(scope="module")
def data(raw):
    """The same scans prepared for training."""
    result = fewlabels.prepare("own", raw, raw.parent / "data", workers=1, progress=False)
    return result.root_path


@pytest.fixture(scope="module")
def run(data):
    """The result of a short training."""
    output_root = data.parent / "runs"
    return fewlabels.train(
        OPTIONS, root_path=data, exp="mine", output_root=output_root, progress=False
    )


def mr(shape=SHAPE, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 500, shape).astype(np.int16)


def checkpoint(path: Path, plan=None, patch=PATCH) -> Path:
    plan = plan or threshold.plan()
    return threshold.checkpoint(path, threshold.info_of(plan), patch, plan)


def predicted_by_script(model: Path, source: Path, output: Path, *flags: str) -> None:
    paths = ["--checkpoint", str(model), "--input", str(source), "--output", str(output)]
    assert predict([*paths, "--device", "cpu", "--probabilities", *flags]) == 0


def voxels(path: Path) -> np.ndarray:
    return np.asarray(nibabel.load(path).dataobj)


# one array in memory


@pytest.mark.parametrize("letters", ["RAS", "LPS", "PSR"])
@pytest.mark.parametrize("kind", ["resampled volumes", "slices", "LA"])
def test_an_array_with_its_affine_is_predicted_as_its_file(
    tmp_path, threshold_networks, letters, kind
):
    scan = write_scan(tmp_path / "scan.nii.gz", mr(), SPACING, (4, -30, 11), ORIENTATIONS[letters])
    path = tmp_path / "c.pth"
    if kind == "LA":
        threshold.checkpoint(path, LA, PATCH)
    elif kind == "slices":
        checkpoint(path, threshold.plan(2), (16, 16))
    else:
        checkpoint(path, threshold.plan(spacing=(1.3, None, 0.9)))
    predicted_by_script(path, scan, tmp_path / "out")
    image = nibabel.load(scan)
    model = fewlabels.load_model(path, "cpu")
    found = model.predict(np.asarray(image.dataobj), affine=image.affine, progress=False)
    labels = voxels(tmp_path / "out" / "scan.nii.gz")
    assert found.labels.dtype == labels.dtype and np.array_equal(found.labels, labels)
    probabilities = np.load(tmp_path / "out" / "scan.npz")["probabilities"]
    assert np.array_equal(found.probabilities, probabilities)
    assert 0.2 < np.mean(found.labels > 0) < 0.8


def test_without_an_affine_the_axes_run_right_front_and_head(tmp_path, threshold_networks):
    plan = threshold.plan(spacing=(1.3, None, 0.9))
    path = checkpoint(tmp_path / "c.pth", plan)
    scan = write_scan(tmp_path / "scan.nii.gz", mr(), SPACING, direction=ORIENTATIONS["RAS"])
    predicted_by_script(path, scan, tmp_path / "out")
    found = fewlabels.load_model(path, "cpu").predict(mr(), SPACING, progress=False)
    assert np.array_equal(found.labels, voxels(tmp_path / "out" / "scan.nii.gz"))


def test_channels_come_first_and_labels_have_the_values_of_the_training(
    tmp_path, threshold_networks
):
    """The class is the channel that is larger, where one is above its mean; the values are 5 and
    300.
    """
    plan = threshold.plan(values=(0, 5, 300), channels=("T1", "T2"))
    model = fewlabels.load_model(checkpoint(tmp_path / "c.pth", plan), "cpu")
    array = np.stack([mr(seed=1), mr(seed=2)])
    found = model.predict(array, SPACING, progress=False).labels
    first, second = ((channel - channel.mean()) / channel.std() for channel in array)
    largest = np.where(first > second, 5, 300)
    expected = np.where(np.maximum(first, second) > 0, largest, 0)
    assert model.label_values == (0, 5, 300)
    assert found.dtype == np.uint16
    assert np.mean(found == expected) > 0.999  # ties of float32 and float64


def test_a_picture_is_predicted_as_its_png_file(tmp_path, threshold_networks):
    path = checkpoint(tmp_path / "c.pth", threshold.plan(2), (16, 16))
    picture = mr((20, 30)).astype(np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(picture), str(tmp_path / "a.png"))
    predicted_by_script(path, tmp_path / "a.png", tmp_path / "out")
    found = fewlabels.load_model(path, "cpu").predict(picture, progress=False)
    written = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / "a.png")))
    assert found.labels.shape == (20, 30)
    assert np.array_equal(found.labels, written)
    assert found.probabilities is not None and found.probabilities.shape == (2, 20, 30)


def test_a_slice_is_predicted_as_a_volume_of_one_slice(tmp_path, threshold_networks):
    plan = threshold.plan(2, spacing=(1.3, 1.3, None))
    model = fewlabels.load_model(checkpoint(tmp_path / "c.pth", plan, (16, 16)), "cpu")
    array = mr((20, 30))
    alone = model.predict(array, (0.8, 0.8), progress=False)
    volume = model.predict(array[..., None], (0.8, 0.8, 5), progress=False)
    assert alone.labels.shape == (20, 30)
    assert np.array_equal(alone.labels, volume.labels[..., 0])
    assert alone.probabilities is not None and volume.probabilities is not None
    assert np.array_equal(alone.probabilities, volume.probabilities[..., 0])


@pytest.mark.parametrize("kind", ["big endian", "float16", "not contiguous", "list"])
def test_any_array_of_numbers_is_taken_and_left_unchanged(tmp_path, threshold_networks, kind):
    model = fewlabels.load_model(checkpoint(tmp_path / "c.pth"), "cpu")
    array = mr()
    other = {
        "big endian": array.astype(">i2"),
        "float16": array.astype(np.float16),
        "not contiguous": np.repeat(array, 2, axis=0)[::2],
        "list": array.tolist(),
    }[kind]
    found = model.predict(other, SPACING, progress=False)
    assert np.array_equal(found.labels, array > array.mean())
    assert np.array_equal(np.asarray(other), array)


def test_outside_of_the_box_there_is_only_background(tmp_path, threshold_networks):
    path = threshold.checkpoint(tmp_path / "c.pth", LA, PATCH)
    model = fewlabels.load_model(path, "cpu", box=(2, 12, 0, 18, 1, 15))
    found = model.predict(mr(), SPACING, progress=False)
    assert found.probabilities is not None
    assert (found.labels[:2] == 0).all() and (found.labels[2:12] > 0).any()
    assert (found.probabilities[0, 12:] == 1).all()


def test_probabilities_are_only_returned_where_they_are_asked_for(tmp_path, threshold_networks):
    model = fewlabels.load_model(checkpoint(tmp_path / "c.pth"), "cpu")
    assert model.predict(mr(), SPACING, probabilities=False, progress=False).probabilities is None


@pytest.mark.parametrize(
    "array, arguments, message",
    [
        (mr(), {}, "spacing: is missing"),
        (mr((3, *SHAPE)), {"spacing": SPACING}, "1 channels"),
        (mr(), {"spacing": (1.0, -1.0, 1.0)}, "must be finite and positive"),
        (mr(), {"spacing": (1.0, float("nan"), 1.0)}, "must be finite and positive"),
        (mr(), {"spacing": SPACING, "affine": np.eye(4)}, "give only one of the two"),
        (mr(), {"affine": np.eye(3)}, r"affine: has shape \(3, 3\)"),
        (mr((20, 30)), {"spacing": (1.0, 1.0)}, "the network takes volumes"),
        (np.full(SHAPE, np.nan), {"spacing": SPACING}, "NaN"),
        (np.zeros(SHAPE), {"spacing": SPACING}, "the image is constant"),
        (np.zeros((0, 3, 3)), {"spacing": SPACING}, "at least one voxel"),
        (np.full(SHAPE, "x"), {"spacing": SPACING}, "give numbers"),
        ([[1, 2], [3]], {"spacing": SPACING}, "array: not an array"),
        (mr(), {"spacing": 1.5}, "spacing: has shape"),
        (mr(), {"spacing": ("a", "b", "c")}, "numbers are expected"),
        (mr(), {"spacing": (1.0,)}, "has 1 values"),
        (mr(), {"affine": np.full((4, 4), np.nan)}, "must be finite"),
    ],
)
def test_an_array_that_does_not_fit_is_a_user_error(
    tmp_path, threshold_networks, array, arguments, message
):
    model = fewlabels.load_model(checkpoint(tmp_path / "c.pth"), "cpu")
    with pytest.raises(fewlabels.UserError, match=message):
        model.predict(array, **arguments, progress=False)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"checkpoint": "nowhere"}, "nowhere: no such run"),
        ({"checkpoint": ()}, "checkpoint: names none"),
        ({"tta": "miror"}, "tta='miror': choose from none, mirror"),
        ({"device": "tpu"}, "--device tpu: not available"),
        ({"batch": -1}, "--batch -1"),
        ({"stride": (4, 0, 4)}, "--stride 4 0 4"),
        ({"box": (0, 1)}, "--box"),
        ({"amp": "fp16"}, "--amp fp16: this cpu is not known to compute fast in that type"),
        ({"amp": "half"}, "amp='half': choose from auto, off, bf16, fp16"),
        ({"accelerate": "graph"}, "accelerate='graph': choose from auto, off, fold, compile"),
        ({"blend": "linear"}, "blend='linear': choose from uniform, gaussian"),
    ],
)
def test_a_model_that_cannot_be_loaded_is_a_user_error(
    tmp_path, threshold_networks, options, message
):
    arguments = {"checkpoint": checkpoint(tmp_path / "c.pth"), "device": "cpu", **options}
    with pytest.raises(fewlabels.UserError, match=message):
        fewlabels.load_model(**arguments)


def test_windows_of_own_data_are_blended_with_gaussian_weights_unless_another_is_named(
    tmp_path, threshold_networks
):
    """Windows of a network that looks at one voxel agree, so only rounding differs."""
    array = mr()
    path = checkpoint(tmp_path / "c.pth")
    probabilities = {}
    for blend in (None, "gaussian", "uniform"):
        model = fewlabels.load_model(path, "cpu", blend=blend, amp="off", accelerate="off")
        prediction = model.predict(array, spacing=SPACING, progress=False)
        probabilities[blend] = prediction.probabilities
    assert np.array_equal(probabilities[None], probabilities["gaussian"])
    assert not np.array_equal(probabilities[None], probabilities["uniform"])
    np.testing.assert_allclose(probabilities[None], probabilities["uniform"], atol=1e-5)


def test_a_published_checkpoint_needs_the_name_of_its_data_set(tmp_path):
    import torch

    from networks.registry import build

    net = build("unet", 1, 4, {"egm": "none"})
    path = tmp_path / "unet_best_model.pth"
    torch.save(net.state_dict(), path)
    with pytest.raises(fewlabels.UserError, match="name it with --dataset"):
        fewlabels.load_model(path, "cpu")
    model = fewlabels.load_model(path, "cpu", dataset="ACDC", patch_size=(32, 32))
    assert model.class_names[0] == "background" and len(model.class_names) == 4
    scan = write_scan(tmp_path / "scan.nii.gz", mr((30, 26, 4)), (1.5, 1.25, 10))
    options = ["--dataset", "ACDC", "--patch_size", "32", "32"]
    predicted_by_script(path, scan, tmp_path / "out", *options)
    found = model.predict(mr((30, 26, 4)), (1.5, 1.25, 10), progress=False)
    assert np.array_equal(found.labels, voxels(tmp_path / "out" / "scan.nii.gz"))


# the functions that work on files


def test_check_returns_what_check_json_holds(raw, tmp_path):
    result = fewlabels.check(str(raw), output=tmp_path, workers=1, progress=False)
    content = json.loads(result.file.read_text(encoding="utf-8"))
    assert result.file == tmp_path / "check.json"
    assert list(result.errors) == content["errors"]
    assert list(result.warnings) == content["warnings"]
    assert list(result.cases) == [case["name"] for case in content["cases"]]
    assert len(result.cases) == 12


def test_check_returns_errors_instead_of_exiting(raw, tmp_path):
    scan = next((raw / "labelsTs").iterdir())
    image = nibabel.load(scan)
    broken = tmp_path / "raw"
    write_scan(broken / "imagesTr" / "a_0000.nii.gz", mr((9, 9, 9)))
    label = broken / "labelsTr" / "a.nii.gz"
    label.parent.mkdir()
    nibabel.save(nibabel.Nifti1Image(np.full((9, 9, 9), 99, np.uint8), image.affine), label)
    (broken / "dataset.json").write_text((raw / "dataset.json").read_text(encoding="utf-8"))
    result = fewlabels.check(broken, workers=1, progress=False)
    assert any("99" in line for line in result.errors)


def test_prepare_names_the_cases_and_keeps_finished_ones(raw, data):
    again = fewlabels.prepare("own", str(raw), str(data), workers=1, progress=False)
    assert again.prepared == () and not again.failed
    assert sorted(again.kept) == sorted(path.stem for path in (data / "data").glob("*.h5"))


def test_training_returns_what_the_checkpoints_hold(run):
    assert [stage.name for stage in run.stages] == ["pre_train", "self_train"]
    assert run.best == run.folder / "self_train" / "unet_best_model.pth"
    for stage in run.stages:
        progress = load(stage.last)["progress"]
        assert (stage.steps, stage.best_step) == (2, progress["best_step"])
        assert stage.best_score == progress["best_score"]
        assert list(stage.history) == progress["history"]
        assert stage.best.is_file()


def test_training_equals_that_of_the_script(data, run, tmp_path):
    flags = {name: value for name, value in OPTIONS.items() if name != "patch_size"}
    words = ["--root_path", str(data), "--output_root", str(tmp_path), "--exp", "mine"]
    for name, value in flags.items():
        words += [f"--{name}", str(value)]
    train_any([*words, "--patch_size", "80", "80"])
    (best,) = tmp_path.rglob("self_train/unet_best_model.pth")
    assert_same(load(best)["student"], load(run.best)["student"])


def test_a_finished_run_is_resumed_and_returns_the_same(data, run):
    again = fewlabels.train(
        OPTIONS, root_path=data, exp="mine", output_root=data.parent / "runs", progress=False
    )
    assert again == run


def test_a_config_file_stands_for_keywords_which_win_over_it(data, tmp_path):
    config = tmp_path / "config.json"
    options = {**OPTIONS, "root_path": str(data), "max_iterations": 50, "losses": {"ce": 1}}
    config.write_text(json.dumps(options), encoding="utf-8")
    found = fewlabels.train(
        config, output_root=tmp_path, max_iterations=1, val_every=1, progress=False
    )
    settings = load(found.best)["settings"]
    assert settings["max_iterations"] == 1 and settings["pre_iterations"] == 2
    assert settings["losses"] == [["ce", 1.0]]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"metod": "bcp"}, "metod: unknown option; did you mean method"),
        ({"focus": "published"}, "focus: it belongs to --method cogrnet"),
        ({"method": "bpc"}, "--method bpc: unknown"),
        ({"batch_size": "4"}, "batch_size='4': a whole number is expected"),
        ({"batch_size": 4.5}, "batch_size=4.5: a whole number is expected"),
        ({"optimizer": "sdg"}, "optimizer='sdg': choose from sgd, adam"),
        ({"fresh": 1}, "fresh=1: True or False is expected"),
        ({"patch_size": 80}, "patch_size=80: a list is expected"),
        ({"val_every": 0}, "--val_every 0: must be at least 1"),
    ],
)
def test_a_wrong_option_of_a_training_is_a_user_error(data, tmp_path, options, message):
    with pytest.raises(fewlabels.UserError, match=message):
        fewlabels.train(root_path=data, output_root=tmp_path, progress=False, **options)


def test_a_training_without_data_is_a_user_error(tmp_path):
    with pytest.raises(fewlabels.UserError, match="name a public data set"):
        fewlabels.train(root_path=tmp_path, progress=False)


@pytest.fixture(scope="module")
def tested(data, run):
    return fewlabels.test(run.folder, root_path=data, device="cpu", progress=False)


def test_test_returns_what_its_files_hold(run, tested):
    folder = run.folder / "test" / "self_train_best_test"
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    with open(folder / "metrics.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert tested.folder == folder
    assert tested.mean == summary["honest"]["mean"]
    assert tested.class_means == summary["honest"]["classes"]
    assert [(row["case"], row["class"]) for row in rows] == [
        (score.case, score.class_name) for score in tested.scores
    ]
    for row, score in zip(rows, tested.scores, strict=True):
        assert float(row["honest_dice"]) == pytest.approx(score.penalised.dice, abs=1e-6)


def test_the_last_checkpoint_of_a_stage_can_be_tested(data, run, tmp_path):
    found = fewlabels.test(
        run.folder, root_path=data, which="last", stage_name="pre_train", output_dir=tmp_path / "out",
        split="val", device="cpu", progress=False,
    )  # fmt: skip
    assert found.summary["checkpoint"]["path"] == str(run.folder / "pre_train" / "last.pth")
    assert found.summary["split"] == "val.list"


def test_both_checkpoints_at_once_cannot_be_tested(data, run):
    with pytest.raises(fewlabels.UserError, match="choose from best, last"):
        fewlabels.test(run.folder, root_path=data, which="both", progress=False)  # pyright: ignore


@pytest.fixture(scope="module")
def predicted(raw, run):
    return fewlabels.predict(
        str(run.folder), raw / "imagesTs", raw.parent / "out", device="cpu", progress=False
    )


def test_predict_names_the_files_of_the_scans(raw, predicted):
    cases = [path.name.removesuffix("_0000.nii.gz") for path in (raw / "imagesTs").iterdir()]
    assert sorted(predicted.predicted) == sorted(cases)
    assert not predicted.kept and not predicted.failed
    for name, path in predicted.predicted.items():
        scan = raw / "imagesTs" / f"{name}_0000.nii.gz"
        assert voxels(path).shape == voxels(scan).shape


def test_a_scan_that_cannot_be_predicted_is_returned_with_its_fault(raw, run, tmp_path):
    (tmp_path / "in").mkdir()
    scan = next((raw / "imagesTs").iterdir())
    (tmp_path / "in" / "good.nii.gz").write_bytes(scan.read_bytes())
    (tmp_path / "in" / "bad.nii.gz").write_bytes(b"not a scan")
    found = fewlabels.predict(
        run.folder, tmp_path / "in", tmp_path / "out", device="cpu", progress=False
    )
    assert list(found.predicted) == ["good"]
    assert list(found.failed) == ["bad"] and "bad.nii.gz" in found.failed["bad"]


def test_evaluate_scores_a_folder_of_predictions(raw, tmp_path):
    """Labels that are predicted by themselves, but for one voxel of one class of one case."""
    labels = raw / "labelsTs"
    for number, path in enumerate(sorted(labels.iterdir())):
        image = nibabel.load(path)
        array = np.asarray(image.dataobj).copy()
        if number == 0:
            inside = int(np.count_nonzero(array == 1))
            array[tuple(np.argwhere(array == 1)[0])] = 0
        nibabel.save(nibabel.Nifti1Image(array, image.affine), tmp_path / path.name)
    result = fewlabels.evaluate(
        tmp_path, labels, output=tmp_path / "scores", workers=1, progress=False
    )
    dice = [score.penalised.dice for score in result.scores]
    assert dice[0] == pytest.approx(2 * (inside - 1) / (2 * inside - 1))
    assert dice[1:] == [1.0] * (len(dice) - 1)
    assert result.mean["dice"] == pytest.approx(np.mean(dice))
    assert (result.folder / "metrics.csv").is_file()


def test_predictions_that_cannot_be_scored_are_a_user_error(raw, tmp_path):
    label = min((raw / "labelsTs").iterdir())
    (tmp_path / "predictions").mkdir()
    (tmp_path / "predictions" / label.name).write_bytes(label.read_bytes())
    with pytest.raises(fewlabels.UserError, match=r"no prediction of .*nothing was written"):
        fewlabels.evaluate(tmp_path / "predictions", raw / "labelsTs", workers=1, progress=False)
    assert not (tmp_path / "predictions" / "metrics.csv").exists()


def test_compare_returns_the_numbers_of_its_file(tested, run, tmp_path):
    result = fewlabels.compare(run.folder, tmp_path / "page", pictures=False, progress=False)
    content = json.loads(result.file.read_text(encoding="utf-8"))
    assert result.page == tmp_path / "page" / "index.html" and result.page.is_file()
    assert content == json.loads(json.dumps(result.numbers))
    assert content["groups"][0]["runs"][0]["dice"] == tested.mean["dice"]


def test_settings_of_a_test_need_their_data_set():
    with pytest.raises(fewlabels.UserError, match="dataset: settings of a test need"):
        fewlabels.test(EvaluationSettings())


@pytest.mark.parametrize(
    "function, settings",
    [
        (fewlabels.check, CheckSettings),
        (fewlabels.compare, CompareSettings),
        (fewlabels.evaluate, ScoringSettings),
        (fewlabels.export, ExportSettings),
        (fewlabels.export_model, ExportModelSettings),
        (fewlabels.make_phantom, PhantomSettings),
        (fewlabels.predict, PredictSettings),
        (fewlabels.suggest, SuggestSettings),
        (fewlabels.prepare, PrepareSettings),
        (fewlabels.register, RegistrationSettings),
        (fewlabels.report, ReportSettings),
    ],
)
def test_every_flag_of_a_script_is_a_keyword_with_the_same_default(function, settings):
    flags = {field.name: field.default for field in dataclasses.fields(settings)}
    keywords = dict(inspect.signature(function).parameters)
    del keywords["progress"]
    differing = ("raw", "nsd_tolerance")
    assert keywords.keys() == flags.keys()
    for name, parameter in keywords.items():
        has_default = parameter.default is not inspect.Parameter.empty
        if has_default and flags[name] is not dataclasses.MISSING and name not in differing:
            assert str(parameter.default) == str(flags[name]), name


# manners of a library


def test_below_the_scripts_only_the_message_helper_and_their_frame_print():
    """Everything else goes through utils/messages.py, so that a Python caller receives it."""
    allowed = {"utils/messages.py", "utils/cli.py", "training/signals.py"}
    found = set()
    for path in REPOSITORY.glob("[a-z]*/**/*.py"):
        package = path.relative_to(REPOSITORY).parts[0]
        if package in ("code", "pancreas", "tests", "benchmarks"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "tqdm.write"):
                found.add(path.relative_to(REPOSITORY).as_posix())
    assert found == allowed


def test_nothing_is_printed_and_the_command_line_is_not_read(
    raw, data, run, tmp_path, capfd, monkeypatch
):
    words = ["notebook", "--no-such-flag", "--root_path", "nowhere"]
    monkeypatch.setattr(sys, "argv", list(words))
    monkeypatch.chdir(tmp_path)
    fewlabels.make_phantom("raw", train=1, val=1, test=1, labelled=1, size=(48,), progress=False)
    fewlabels.check("raw", workers=1, progress=False)
    fewlabels.prepare("own", "raw", "data", workers=1, progress=False)
    fewlabels.train(
        {**OPTIONS, "method": "supervised"}, root_path="data", output_root="runs", labelnum=1,
        exp="quiet", val_every=1, progress=False,
    )  # fmt: skip
    stage = fewlabels.load_model(run.folder, "cpu")
    stage.predict(mr((40, 40, 3)), (1.4, 1.4, 8), progress=False)
    fewlabels.predict(run.folder, "raw/imagesTs", "out", device="cpu", progress=False)
    fewlabels.evaluate("out", "raw/labelsTs", workers=1, progress=False)
    fewlabels.test(run.folder, root_path=data, output_dir="test", device="cpu", progress=False)
    fewlabels.compare("test", "page", progress=False)
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")
    assert sys.argv == words


def test_messages_and_warnings_go_to_the_logger(raw, run, tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="fewlabels"):
        fewlabels.predict(
            run.folder, raw / "imagesTs", tmp_path / "out", device="cpu", progress=False
        )
    messages = [record.getMessage() for record in caplog.records if record.name == "fewlabels"]
    assert any("2 predicted, 0 kept" in line for line in messages)


def test_a_progress_bar_is_drawn_unless_it_is_switched_off(raw, run, tmp_path, capsys):
    fewlabels.predict(run.folder, raw / "imagesTs", tmp_path / "out", device="cpu")
    out, err = capsys.readouterr()
    assert "predicting" in err and out == ""


def test_the_door_works_in_another_thread(data, run):
    """Python allows signal handlers only in the main thread."""
    results = []

    def work():
        found = fewlabels.check(data, workers=1, progress=False)
        again = fewlabels.train(
            OPTIONS, root_path=data, exp="mine", output_root=data.parent / "runs", progress=False
        )
        results.extend([found.layout, again])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert len(results) == 2 and results[1] == run


def test_within_a_script_the_messages_of_a_call_are_printed(monkeypatch, capsys):
    monkeypatch.setattr("utils.messages._usual", Terminal())
    with fewlabels._quiet(progress=True):
        message("hello")
    assert capsys.readouterr().out == "hello\n"


def test_without_a_script_messages_go_to_the_logger(caplog, capsys):
    caplog.set_level("INFO", logger="fewlabels")
    message("hello")
    assert [record.message for record in caplog.records] == ["hello"]
    assert capsys.readouterr().out == ""


def test_a_folder_that_cannot_be_used_is_a_user_error(raw, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(fewlabels.UserError, match="file"):
        fewlabels.prepare("own", raw, tmp_path / "file" / "below", workers=1, progress=False)


@pytest.mark.long
def test_a_file_without_a_main_guard_is_refused_with_the_remedy(raw, tmp_path):
    file = tmp_path / "unguarded.py"
    file.write_text(
        f"import sys; sys.path.append({str(REPOSITORY)!r})\n"
        f"import fewlabels; fewlabels.check({str(raw)!r}, output='.', workers=1, progress=False)\n"
    )
    done = subprocess.run([sys.executable, file], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0
    assert 'if __name__ == "__main__":' in done.stderr
    assert not (tmp_path / "check.json").exists()


TINY = {
    "PATIENTS": 3, "LABELLED": 1, "SIZE": 48, "PRE_ITERATIONS": 1, "MAX_ITERATIONS": 1, "BATCH_SIZE": 4,
}  # fmt: skip


def notebook_cells():
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]


def test_the_notebook_is_stored_without_outputs():
    cells = [cell for cell in notebook_cells() if cell["cell_type"] == "code"]
    assert len(cells) > 5
    for cell in cells:
        assert cell["outputs"] == [] and cell["execution_count"] is None


def test_the_notebook_runs(tmp_path, monkeypatch, capsys):
    """All code cells in one namespace, from its own folder, with smaller numbers in the cell of
    parameters.
    """
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.chdir(NOTEBOOK.parent)
    monkeypatch.setattr(sys, "path", list(sys.path))
    names: dict = {}
    for cell in notebook_cells():
        if cell["cell_type"] != "code":
            continue
        exec("".join(cell["source"]), names)
        if "parameters" in cell["metadata"].get("tags", []):
            assert set(TINY) <= set(names)
            names["WORK"].rmdir()
            names.update(TINY, WORK=tmp_path)
    names["plt"].close("all")
    assert names["prediction"].labels.shape == names["array"].shape
    assert np.ptp(names["axes"][0].images[0].get_array()) > 0
    assert "left ventricle: Dice" in capsys.readouterr().out


def test_a_process_anywhere_imports_the_door_and_predicts(
    run, published_width, tmp_path, phantom_root
):
    """With the repository on the path; a published-size network, since the process has no narrow
    ones.
    """
    import torch

    from networks.registry import build

    path = tmp_path / "unet_best_model.pth"
    torch.save(build("unet", 1, 4, {"egm": "none"}).state_dict(), path)
    code = (
        f"import sys; sys.path.append({str(REPOSITORY)!r})\n"
        "import fewlabels, numpy\n"
        f"model = fewlabels.load_model({path.name!r}, 'cpu', dataset='ACDC', patch_size=(32, 32))\n"
        "array = numpy.arange(32 * 32 * 2.0).reshape(32, 32, 2)\n"
        "assert model.predict(array, (1, 1, 8), progress=False).labels.shape == (32, 32, 2)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
