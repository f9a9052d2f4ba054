"""Files of scans that are damaged, hostile, or spread over several files; and labels off by
rounding.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from damage import CRASHES, damaged_scans, whole_scan
from raw_scans import blob, noise, write_raw_dataset, write_scan
from scripts import check, prepare, score

from commands.predict_input import find_inputs
from evaluation.label_folders import find_pairs
from scans.reading import listed_values, read_label, read_scan, sha256
from utils.errors import UserError

SHAPE = (26, 24, 20)


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_scan(path)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 400
    return message


@pytest.mark.parametrize("ending", ["mha", "nrrd", "nii.gz"])
def test_no_damaged_compressed_scan_is_read_as_other_voxels(tmp_path, ending):
    whole, truth = whole_scan(tmp_path, ending)
    path = tmp_path / f"scan.{ending}"
    path.write_bytes(whole)
    assert np.array_equal(read_scan(path).array, truth)
    refused = 0
    for data in damaged_scans(whole, ending, 24, seed=1):
        path.write_bytes(data)
        try:
            assert np.array_equal(read_scan(path).array, truth)
        except UserError:
            refused += 1
    assert refused > 12


@pytest.mark.parametrize("name", CRASHES)
def test_a_header_that_crashes_itk_is_one_line(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(CRASHES[name])
    assert name in refusal(path) and "memory" not in refusal(path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["a.NII", "a.NII.GZ", "a.hdr", "a.mhd", "a.nhdr"])
def test_a_voxel_that_is_no_number_is_refused_in_every_spelling(tmp_path, name, value):
    array = noise((30, 20, 10)).astype(np.float32)
    array[-1, -1, -1] = value
    path = write_scan(tmp_path / name.lower(), array).rename(tmp_path / name)
    assert "NaN or infinite" in refusal(path)


@pytest.mark.parametrize("ending, data", [("hdr", "img"), ("mhd", "zraw"), ("nhdr", "raw.gz")])
def test_detached_voxels_that_end_too_early_are_refused(tmp_path, ending, data):
    path = write_scan(tmp_path / f"a.{ending}", noise((30, 20, 10)))
    (voxels,) = [one for one in tmp_path.iterdir() if one.name.startswith("a.") and one != path]
    voxels.write_bytes(voxels.read_bytes()[:-500])
    assert voxels.name in refusal(path)


# --- data files


def with_data_file(folder: Path, ending: str, name: str) -> Path:
    """A header that names another data file than its own."""
    path = write_scan(folder / f"a.{ending}", noise((4, 4, 4)))
    (voxels,) = [one for one in folder.iterdir() if one.name.startswith("a.") and one != path]
    path.write_bytes(path.read_bytes().replace(voxels.name.encode(), os.fsencode(name)))
    return path


@pytest.mark.parametrize("ending", ["mhd", "nhdr"])
@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../other/a.raw", "sub/../../a.raw", "..\\a.raw", "/dev/zero"]
)
def test_a_data_file_outside_the_headers_folder_is_refused(tmp_path, ending, name):
    path = with_data_file(tmp_path, ending, name)
    assert "may only lie in its own folder or below" in refusal(path)


@pytest.mark.parametrize("ending", ["mhd", "nhdr"])
def test_a_link_that_leads_out_of_the_headers_folder_is_refused(tmp_path, ending):
    folder = tmp_path / "scans"
    path = with_data_file(folder, ending, "link.raw")
    (tmp_path / "secret.raw").write_bytes(bytes(128))
    (folder / "link.raw").symlink_to(tmp_path / "secret.raw")
    assert "leads out" in refusal(path)


@pytest.mark.parametrize("ending", ["mhd", "nhdr", "hdr"])
def test_a_pipe_in_place_of_voxels_is_refused_without_waiting(tmp_path, ending):
    path = write_scan(tmp_path / f"a.{ending}", noise((4, 4, 4)))
    (voxels,) = [one for one in tmp_path.iterdir() if one != path]
    voxels.unlink()
    os.mkfifo(voxels)
    assert "not a regular file" in refusal(path)


def test_a_pipe_in_place_of_a_scan_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "a.nii.gz")
    assert "not a regular file" in refusal(tmp_path / "a.nii.gz")


@pytest.mark.parametrize("ending", ["mhd", "nhdr", "hdr"])
def test_a_data_set_of_links_is_read(tmp_path, ending):
    path = write_scan(tmp_path / "store" / f"a.{ending}", noise((4, 4, 4)))
    (tmp_path / "links").mkdir()
    for file in (tmp_path / "store").iterdir():
        (tmp_path / "links" / file.name).symlink_to(file)
    assert np.array_equal(read_scan(tmp_path / "links" / path.name).array, noise((4, 4, 4)))


def test_a_pipe_and_a_device_are_not_hashed(tmp_path):
    os.mkfifo(tmp_path / "pipe.nii.gz")
    (tmp_path / "device.nii.gz").symlink_to("/dev/zero")
    for name in ("pipe.nii.gz", "device.nii.gz"):
        with pytest.raises(UserError, match="not a regular file"):
            sha256(tmp_path / name)


def test_links_to_nothing_and_pipes_are_scans_to_predict_that_have_a_fault(tmp_path):
    write_scan(tmp_path / "in" / "good.nii.gz", noise((4, 4, 4)))
    (tmp_path / "in" / "lost.nii.gz").symlink_to("nowhere")
    (tmp_path / "in" / "ring.nii.gz").symlink_to("ring.nii.gz")
    os.mkfifo(tmp_path / "in" / "pipe.nii.gz")
    (tmp_path / "in" / "notes.txt").symlink_to("nowhere")
    cases = find_inputs(tmp_path / "in", 1, False, tmp_path / "out", False)
    assert [case.name for case in cases] == ["good", "lost", "pipe", "ring"]
    for case in cases[1:]:
        refusal(case.images[0])


def test_a_label_that_is_a_link_to_nothing_is_not_left_out(tmp_path):
    for folder in ("predictions", "labels"):
        write_scan(tmp_path / folder / "a.nii.gz", noise((4, 4, 4)))
    write_scan(tmp_path / "predictions" / "b.nii.gz", noise((4, 4, 4)))
    (tmp_path / "labels" / "b.nii.gz").symlink_to("nowhere")
    folders = find_pairs(tmp_path / "predictions", tmp_path / "labels")
    assert [pair.name for pair in folders.pairs] == ["a", "b"]
    assert folders.missing == ()


def test_voxels_may_lie_in_a_folder_below(tmp_path):
    path = with_data_file(tmp_path, "mhd", "voxels/a.zraw")
    (tmp_path / "voxels").mkdir()
    (tmp_path / "a.zraw").rename(tmp_path / "voxels" / "a.zraw")
    assert np.array_equal(read_scan(path).array, noise((4, 4, 4)))


@pytest.mark.parametrize("ending", ["mhd", "nhdr", "hdr"])
def test_the_hash_covers_the_voxels_of_a_detached_header(tmp_path, ending):
    path = write_scan(tmp_path / f"a.{ending}", noise((4, 4, 4)))
    before = sha256(path)
    write_scan(path, noise((4, 4, 4), seed=1))
    assert sha256(path) != before


def test_the_hash_of_a_file_is_that_of_its_bytes(tmp_path):
    path = write_scan(tmp_path / "a.nii.gz", noise((4, 4, 4)))
    assert sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()


# --- bad files among good ones, in the programs


def add_bad_cases(raw: Path) -> None:
    """A case for each header that crashes ITK, and one whose name is Latin-1."""
    for number, data in enumerate(CRASHES.values()):
        (raw / "imagesTr" / f"bad{number}_0000.nii.gz").write_bytes(data)
        shutil.copy(raw / "labelsTr" / "tr0.nii.gz", raw / "labelsTr" / f"bad{number}.nii.gz")
    copy_as(raw / "imagesTr" / "tr0_0000.nii.gz", raw / "imagesTr", b"M\xfcller_0000.nii.gz")
    copy_as(raw / "labelsTr" / "tr0.nii.gz", raw / "labelsTr", b"M\xfcller.nii.gz")


def copy_as(source: Path, folder: Path, name: bytes) -> None:
    """Copy to a name that need not be UTF-8."""
    shutil.copyfile(source, folder / os.fsdecode(name))


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    """Three good cases, four whose headers crash ITK, one whose name is not UTF-8."""
    root = tmp_path_factory.mktemp("raw")
    write_raw_dataset(root, {"imagesTr": 3}, channel_names={"0": "T1"}, numTraining=8)
    for path in (root / "imagesTr").glob("*_0001.nii.gz"):
        path.unlink()
    add_bad_cases(root)
    return root


def test_check_reports_every_bad_file_and_looks_at_the_others(raw, tmp_path):
    assert check(["--root_path", str(raw), "--output", str(tmp_path), "--workers", "1"]) == 2
    content = json.loads((tmp_path / "check.json").read_text())
    good = [case["name"] for case in content["cases"] if case["shape"]]
    assert {"tr0", "tr1", "tr2"} <= set(good) and len(content["cases"]) == 8
    for number in range(4):
        assert any(f"bad{number}_0000.nii.gz" in line for line in content["errors"])
    assert any("UTF-8" in line for line in content["errors"])


def test_prepare_reports_every_bad_file_and_prepares_the_others(raw, tmp_path, capsys):
    flags = ["--dataset", "own", "--source", str(raw), "--root_path", str(tmp_path / "out")]
    assert prepare([*flags, "--workers", "1"]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "not prepared" in line]
    assert len(lines) == 5 and not any("memory" in line for line in lines)
    assert sorted(path.stem for path in (tmp_path / "out" / "data").glob("*.h5")) == [
        "tr0",
        "tr1",
        "tr2",
    ]


def test_evaluate_reports_every_bad_file(raw, tmp_path, capsys):
    predictions = Path(shutil.copytree(raw / "labelsTr", tmp_path / "predictions"))
    for number, data in enumerate(CRASHES.values()):
        (predictions / f"bad{number}.nii.gz").write_bytes(data)
    assert (
        score(
            ["--predictions", str(predictions), "--labels", str(raw / "labelsTr"), "--workers", "1"]
        )
        == 2
    )
    lines = [line for line in capsys.readouterr().err.splitlines() if "not scored" in line]
    assert len(lines) == 4


def test_evaluate_scores_a_case_whose_name_is_not_utf8(raw, tmp_path):
    labels, predictions = tmp_path / "labels", tmp_path / "predictions"
    for folder in (labels, predictions):
        folder.mkdir()
        copy_as(raw / "labelsTr" / "tr0.nii.gz", folder, b"M\xfcller.nii.gz")
    flags = ["--predictions", str(predictions), "--labels", str(labels), "--workers", "1"]
    assert score(flags) == 0
    assert "\nM\\xfcller," in (predictions / "metrics.csv").read_text()


# --- labels


def saved(path: Path, array: np.ndarray, dtype=None) -> Path:
    image = nibabel.Nifti1Image(array, np.diag([1.0, 2.0, 3.0, 1.0]))
    if dtype is not None:
        image.set_data_dtype(dtype)
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32])
def test_labels_that_nibabel_saved_from_floats_are_whole_again(tmp_path, dtype):
    truth = blob(SHAPE, (3, 3, 3), (9, 9, 9), 1) + blob(SHAPE, (12, 3, 3), (18, 9, 9), 24)
    path = saved(tmp_path / "a.nii.gz", truth * 0.99999994, dtype)
    label = read_label(path, (0, 1, 24), "declared")
    assert np.array_equal(label.array, truth) and label.array.dtype == np.uint8


def test_the_refusal_names_values_found_and_allowed_once_each(tmp_path):
    truth = blob(SHAPE, (3, 3, 3), (9, 9, 9), 1).astype(np.float32)
    truth[0, 0, :6] = (0.99, 0.990001, 1.0005, 2.5, 7, 7)
    with pytest.raises(UserError) as caught:
        read_label(saved(tmp_path / "a.nii.gz", truth), (0, 1, 2), "declared in dataset.json")
    assert "holds 0.99, 2.5, 7, expected 0, 1, 2 (declared in dataset.json)" in str(caught.value)


def test_many_values_are_listed_in_short():
    assert listed_values(range(65536)) == "0 to 65535"
    assert listed_values([0.5 + number for number in range(30)]).endswith("9.5 ...")


def test_check_prepare_and_evaluate_take_labels_off_by_rounding(tmp_path):
    root = write_raw_dataset(
        tmp_path / "raw", {"imagesTr": 3}, values=(1,), channel_names={"0": "T1"}
    )
    for path in (root / "imagesTr").glob("*_0001.nii.gz"):
        path.unlink()
    for path in (root / "labelsTr").iterdir():
        image = sitk.Cast(sitk.ReadImage(str(path)), sitk.sitkFloat32)
        sitk.WriteImage(image * 0.99999994, str(path))
    assert check(["--root_path", str(root), "--workers", "1"]) == 0
    flags = ["--dataset", "own", "--source", str(root), "--root_path", str(tmp_path / "out")]
    assert prepare([*flags, "--workers", "1"]) == 0
    predictions = Path(shutil.copytree(root / "labelsTr", tmp_path / "predictions"))
    flags = ["--predictions", str(predictions), "--labels", str(root / "labelsTr")]
    assert score([*flags, "--workers", "1"]) == 0
