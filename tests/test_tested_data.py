"""Training and testing hold the data against the checkpoint: copies of trained scans, classes,
channels, preparation.
"""

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from helpers import train_any
from raw_scans import write_raw_dataset
from scripts import prepare, run_test

from commands.agreement import check_channels, mixed_preparations, other_preparation
from dataloaders.copies import Prints
from dataloaders.digest import FileFound
from training.checkpoint import load
from utils.errors import UserError

pytestmark = pytest.mark.usefixtures("narrow")

CASES = {"imagesTr": 3, "imagesUn": 1, "imagesTs": 1}
RUN = [
    "--method", "supervised", "--pre_iterations", "1", "--max_iterations", "1", "--val_every", "1", "--batch_size", "4", "--labeled_bs", "2",
    "--labelnum", "2", "--device", "cpu",
]  # fmt: skip
DIMS = (2, 3)


def prepare_own(raw, root, dims):
    flags = ["--source", str(raw), "--root_path", str(root), "--dims", str(dims), "--workers", "1"]
    return prepare(["--dataset", "own", *flags])


def train(root, output, *flags):
    train_any(["--root_path", str(root), "--output_root", str(output), *RUN, *flags])


def test_on(root, output, *flags):
    common = ["--root_path", str(root), "--output_root", str(output), "--device", "cpu"]
    run_test(
        [*common, "--labelnum", "2", "--exp", "supervised", "--stage_name", "supervised", *flags]
    )


test_on.__test__ = False


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return write_raw_dataset(tmp_path_factory.mktemp("own") / "raw", CASES, (1, 5))


@pytest.fixture(scope="module")
def prepared(raw, tmp_path_factory):
    """By dimensions: a folder of prepared data and one of a run on them."""
    folders = {}
    for dims in DIMS:
        place = tmp_path_factory.mktemp(f"dims{dims}")
        assert prepare_own(raw, place / "data", dims) == 0
        train(place / "data", place / "run")
        folders[dims] = (place / "data", place / "run")
    return folders


@pytest.fixture
def data(prepared, tmp_path):
    """A function that copies the data of a number of dimensions."""
    return lambda dims: Path(shutil.copytree(prepared[dims][0], tmp_path / "data"))


# copies of trained scans


def as_prepared_otherwise(file):
    """Other voxels, as a crop and another normalisation make them; the record of the source stays."""
    image = file["image"][()]
    del file["image"]
    file["image"] = image[..., 1:] * 3
    label = file["label"][()] if "label" in file else np.zeros(image.shape[1:], np.uint8)
    if "label" in file:
        del file["label"]
    file["label"] = label[..., 1:]
    del file.attrs["source_sha256"]


def without_a_record(file):
    """As in the public files: the same voxels in another number type, no attribute."""
    image = file["image"][()].astype(np.float64)
    del file["image"]
    file["image"] = image
    if "label" not in file:
        file["label"] = np.zeros(image.shape[1:], np.uint8)
    for key in list(file.attrs):
        del file.attrs[key]


def add_copy(root, case, change, split="test"):
    """Copy the volume of a case to another name, changed, and list that for the split."""
    path = root / "data" / "new.h5"
    shutil.copy(root / "data" / f"{case}.h5", path)
    with h5py.File(path, "a") as file:
        change(file)
    with open(root / f"{split}.list", "a", encoding="utf-8") as file:
        file.write("new\n")


@pytest.mark.parametrize("change", [as_prepared_otherwise, without_a_record])
@pytest.mark.parametrize("dims", DIMS)
def test_training_refuses_a_copy_of_a_training_scan_among_the_test_scans(
    data, tmp_path, dims, change
):
    root = data(dims)
    add_copy(root, "tr0", change)
    with pytest.raises(
        UserError,
        match=r"new.h5 \(test\) and .*tr0.*h5 \(labelled\) are the same scan under two names; remove one",
    ):
        train(root, tmp_path / "run")


@pytest.mark.parametrize("dims", DIMS)
def test_training_refuses_a_copy_of_an_unlabelled_scan_among_the_test_scans(data, tmp_path, dims):
    root = data(dims)
    add_copy(root, "un0", without_a_record)
    with pytest.raises(
        UserError, match=r"new.h5 \(test\) and .*un0.*h5 \(unlabelled\) are the same"
    ):
        train(root, tmp_path / "run")


def test_training_refuses_a_copy_of_a_training_scan_among_the_validation_scans(data, tmp_path):
    root = data(2)
    add_copy(root, "tr1", without_a_record, "val")
    with pytest.raises(UserError, match=r"new.h5 \(val\) and .*tr1.*h5 \(labelled\) are the same"):
        train(root, tmp_path / "run")


@pytest.mark.parametrize("change", [as_prepared_otherwise, without_a_record])
@pytest.mark.parametrize("dims", DIMS)
def test_a_copy_of_a_trained_scan_is_not_tested(data, prepared, tmp_path, dims, change, capsys):
    root = data(dims)
    add_copy(root, "tr0", change)
    flags = [root, prepared[dims][1], "--output_dir", str(tmp_path / "out")]
    with pytest.raises(
        UserError,
        match=r"it was trained on new of test \(the same scan, under another name\); .*--other_data",
    ):
        test_on(*flags)
    test_on(*flags, "--other_data")
    assert "warning: it was trained on new of test" in capsys.readouterr().out


@pytest.mark.parametrize("dims", DIMS)
def test_other_scans_are_tested(data, prepared, tmp_path, dims):
    test_on(data(dims), prepared[dims][1], "--output_dir", str(tmp_path / "out"))
    assert (tmp_path / "out" / "summary.json").is_file()


def test_a_checkpoint_without_a_record_of_scans_is_accepted(data, prepared, tmp_path):
    output = Path(shutil.copytree(prepared[3][1], tmp_path / "run"))
    for path in output.rglob("*.pth"):
        content = load(path)
        del content["data"]["scans"]
        del content["data"]["preparations"]
        torch.save(content, path)
    test_on(data(3), output, "--output_dir", str(tmp_path / "out"))
    assert (tmp_path / "out" / "summary.json").is_file()


def test_a_damaged_record_of_scans_is_one_line(data, prepared, tmp_path):
    output = Path(shutil.copytree(prepared[3][1], tmp_path / "run"))
    for path in output.rglob("*.pth"):
        content = load(path)
        content["data"]["scans"] = 7
        torch.save(content, path)
    with pytest.raises(UserError, match="its record of the data is damaged"):
        test_on(data(3), output, "--output_dir", str(tmp_path / "out"))


# classes, channels, preparation


def change_plan(root, **values):
    path = root / "plan.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(content | values), encoding="utf-8")


def test_two_classes_exchanged_in_dataset_json_are_not_tested(raw, prepared, tmp_path):
    """Class 1 was the organ with the value 1; prepared anew, it is the organ that is called "organ
    5" now.
    """
    other = Path(shutil.copytree(raw, tmp_path / "raw"))
    about = json.loads((other / "dataset.json").read_text(encoding="utf-8"))
    about["labels"] = {"background": 0, "organ 1": 5, "organ 5": 1}
    (other / "dataset.json").write_text(json.dumps(about), encoding="utf-8")
    assert prepare_own(other, tmp_path / "data", 3) == 0
    for flags in ([], ["--other_data"]):
        with pytest.raises(
            UserError,
            match=(
                "the run's classes are background, organ 1, organ 5, the data's background, "
                "organ 5, organ 1 in another order"
            ),
        ):
            test_on(tmp_path / "data", prepared[3][1], *flags)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"class_names": ["background", "organ 1", "liver"]},
            "the data's background, organ 1, liver",
        ),
        (
            {"channel_names": ["T2", "T1"]},
            r"channel names T1, T2 in the run, T2, T1 in the data \(an",
        ),
    ],
)
def test_no_flag_allows_other_classes_or_exchanged_channels(
    data, prepared, tmp_path, values, message
):
    root = data(3)
    change_plan(root, **values)
    for flags in ([], ["--other_data"]):
        with pytest.raises(UserError, match=f"does not fit the data: .*{message}"):
            test_on(root, prepared[3][1], *flags, "--output_dir", str(tmp_path / "out"))


ZSCORE = {"scheme": "zscore", "low": None, "high": None, "mean": None, "sd": None}
CT = {"scheme": "ct", "low": -100, "high": 200, "mean": 30, "sd": 50}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"label_values": [0, 10, 20]}, "label values 0, 1, 5 in the run, 0, 10, 20 in the data"),
        ({"channel_names": ["T1", "FLAIR"]}, "channel names T1, T2 in the run, T1, FLAIR in"),
        ({"spacing_mm": [2.0, 2.0, 2.0]}, "spacing in mm 1.2, 0.9, 1.1 in the run, 2, 2, 2 in"),
        ({"normalisation": [ZSCORE, CT]}, "normalisation scheme zscore, scheme zscore in the run"),
    ],
)
def test_data_prepared_otherwise_are_tested_only_on_request(
    data, prepared, tmp_path, values, message, capsys
):
    root = data(3)
    change_plan(root, **values)
    flags = [root, prepared[3][1], "--output_dir", str(tmp_path / "out")]
    with pytest.raises(
        UserError, match=f"does not fit the data: {message}.*plan.json.*--other_data"
    ):
        test_on(*flags)
    test_on(*flags, "--other_data")
    assert message in capsys.readouterr().out


def test_training_does_not_resume_with_exchanged_channels(data, prepared, tmp_path):
    root = data(3)
    output = Path(shutil.copytree(prepared[3][1], tmp_path / "run"))
    change_plan(root, channel_names=["T2", "T1"])
    for flags in ([], ["--other_data"]):
        with pytest.raises(
            UserError, match=r"trained on other data \(channel names T1, T2 in the run"
        ):
            train(root, output, *flags)


def test_files_prepared_with_other_settings_are_named():
    trained = ['{"crop": "published", "dataset": "LA"}']
    other = '{"crop": "none", "dataset": "LA"}'
    assert other_preparation(trained, [trained[0], other]) == (
        "prepared with different settings (crop published in training, here none)"
    )
    assert other_preparation(trained, trained) == ""
    assert other_preparation([], [other]) == ""
    assert other_preparation(trained, [""]) == ""


def found(name, **settings):
    record = json.dumps(settings) if settings else ""
    return FileFound(name, Path(f"{name}.h5"), "", Prints(), record)


def test_files_that_differ_from_the_first_are_a_warning():
    files = [found("public"), found("a", crop="published"), found("b", crop="none", version=1)]
    assert mixed_preparations(files, None) == (
        "warning: b.h5: prepared with settings different from those of a.h5 (crop none, there "
        "published); prepare all cases again with --redo"
    )
    assert mixed_preparations(files[:2], None) == ""
    assert mixed_preparations(files[:1], None) == ""


def test_files_that_differ_from_the_plan_are_a_warning():
    plan = {"spacing_mm": [1, 1, None], "version": 2}
    files = [found(name, spacing_mm=[1, 2, None], version=1) for name in "ab"]
    assert mixed_preparations(files, plan) == (
        "warning: a.h5 (and 1 more): prepared with settings different from those of plan.json "
        "(spacing_mm 1, 2, the scan's own, there 1, 1, the scan's own); prepare all cases again "
        "with --redo"
    )
    assert mixed_preparations([found("a", spacing_mm=[1, 1, None], version=1)], plan) == ""


def test_training_warns_of_a_file_that_differs_from_the_plan(data, tmp_path, capsys):
    root = data(3)
    with h5py.File(root / "data" / "tr1.h5", "a") as file:
        settings = json.loads(file.attrs["preparation"])
        settings["orientation"] = "LPS"
        file.attrs["preparation"] = json.dumps(settings)
    train(root, tmp_path / "run")
    expected = (
        "tr1.h5: prepared with settings different from those of plan.json "
        "(orientation LPS, there RAS)"
    )
    assert capsys.readouterr().out.count(expected) == 1


def declare(folder, content):
    (folder / "imagesTs").mkdir()
    (folder / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    return folder / "imagesTs"


def test_scans_with_exchanged_channel_numbers_are_not_predicted(tmp_path):
    scans = declare(tmp_path, {"channel_names": {"0": "T2", "1": "T1"}})
    with pytest.raises(
        UserError, match="its channels are T2, T1, but the network was trained on T1, "
    ):
        check_channels(scans, ("T1", "T2"))
    (scans / "a_0000.nii.gz").write_text("")
    with pytest.raises(UserError, match="in that order; copy the scans"):
        check_channels(scans / "a_0000.nii.gz", ("T1", "T2"))


def test_scans_with_other_channel_names_are_a_warning(tmp_path):
    scans = declare(tmp_path, {"modality": {"0": "CT"}})
    assert "its channels are CT, but the network was trained on MRI" in check_channels(
        scans, ["MRI"]
    )
    assert check_channels(scans, ["CT"]) == ""


@pytest.mark.parametrize(
    "content", [{}, [], 3, {"channel_names": ["T1"]}, {"channel_names": {"1": "a"}}]
)
def test_a_dataset_json_without_channels_says_nothing(tmp_path, content):
    assert check_channels(declare(tmp_path, content), ("T1",)) == ""
