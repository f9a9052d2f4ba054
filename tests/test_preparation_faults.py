"""What can be wrong with raw scans: each fault is one line that names the file and what to do, and
the other cases are prepared.
"""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from raw_scans import (
    acdc_patient,
    blob,
    la_scan,
    noise,
    own_case,
    series,
    write_raw_dataset,
    write_scan,
)
from scripts import prepare

from commands import prepare as command
from datasets.la import INFO as LA
from scans.reading import read_scan
from utils.errors import UserError

GOOD, BAD = "06SR5RBREL16DQ6M8LWS", "0RZDK210BSMWAA6467LU"
SHAPE = (60, 50, 6)


@pytest.fixture(autouse=True)
def in_process(monkeypatch):
    @contextmanager
    def threads(_):
        with ThreadPoolExecutor(1) as pool:
            yield pool

    monkeypatch.setattr(command, "worker_pool", threads)


def run(dataset, source, root, *flags) -> int:
    return prepare(
        ["--dataset", dataset, "--source", str(source), "--root_path", str(root), *map(str, flags)]
    )


def faults(said: str) -> list[str]:
    return [line for line in said.splitlines() if line.startswith("not prepared")]


def refused(*names, call) -> None:
    """`call` raises a UserError of one readable line that holds the names."""
    with pytest.raises(UserError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and len(message) < 500, message
    assert all(str(name) in message for name in names), message


@pytest.fixture(scope="module")
def _la(tmp_path_factory):
    root = tmp_path_factory.mktemp("la")
    for name in (GOOD, BAD):
        la_scan(root, name, SHAPE)
    return root


@pytest.fixture
def la(_la, tmp_path):
    """Two scans, and the folder of the one to damage."""
    shutil.copytree(_la, tmp_path / "raw")
    return tmp_path / "raw", tmp_path / "raw" / "Training Set" / BAD


def with_header(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1))


def four_axes(path: Path) -> None:
    image = sitk.JoinSeries([sitk.ReadImage(str(path))] * 2)
    sitk.WriteImage(image, str(path))


def two_axes(path: Path) -> None:
    sitk.WriteImage(sitk.ReadImage(str(path))[:, :, 0], str(path))


def colours(path: Path) -> None:
    sitk.WriteImage(sitk.Compose([sitk.ReadImage(str(path))] * 3), str(path))


def with_nan(path: Path) -> None:
    array = noise(SHAPE).astype(np.float32)
    array[3, 4, 5] = np.nan
    write_scan(path, array)


SCAN_FAULTS = {
    "cut off": (
        lambda path: path.write_bytes(path.read_bytes()[:2000]),
        "lgemri.nrrd: cannot be read, it is damaged or incomplete",
    ),
    "no scan": (
        lambda path: path.write_bytes(b"hello"),
        "lgemri.nrrd: not a scan in NIfTI, NRRD, MetaImage or DICOM format",
    ),
    "empty file": (lambda path: path.write_bytes(b""), "lgemri.nrrd: not a scan in"),
    "four axes": (
        four_axes,
        "lgemri.nrrd: has 4 axes (60 x 50 x 6 x 2), one 3-D volume is expected",
    ),
    "two axes": (two_axes, "laendo.nrrd: the label has 60 x 50 x 6 voxels, its image 60 x 50 x 1"),
    "colours": (colours, "lgemri.nrrd: has 3 values per voxel"),
    "not a number": (with_nan, "lgemri.nrrd: holds NaN or infinite values"),
    "constant": (
        lambda path: write_scan(path, np.full(SHAPE, 7, np.int16)),
        "lgemri.nrrd: the image is constant (every voxel is 7)",
    ),
    "label of another shape": (
        lambda path: write_scan(
            path.with_name("laendo.nrrd"), blob((60, 50, 7), (20, 20, 2), (30, 30, 4), 255)
        ),
        "laendo.nrrd: the label has 60 x 50 x 7 voxels, its image 60 x 50 x 6",
    ),
    "other label values": (
        lambda path: write_scan(
            path.with_name("laendo.nrrd"), blob(SHAPE, (20, 20, 2), (30, 30, 4), 1)
        ),
        "laendo.nrrd: the label holds 1, expected 0, 255 (as downloaded)",
    ),
    "fractional label": (
        lambda path: write_scan(
            path.with_name("laendo.nrrd"),
            blob(SHAPE, (20, 20, 2), (30, 30, 4)).astype(np.float32) / 2,
        ),
        "laendo.nrrd: the label holds 0.5",
    ),
    "empty label": (
        lambda path: write_scan(path.with_name("laendo.nrrd"), np.zeros(SHAPE, np.uint8)),
        (
            "laendo.nrrd: the label is empty, but the published crop follows it; correct it, or use "
            "--crop none"
        ),
    ),
    "no label": (
        lambda path: path.with_name("laendo.nrrd").unlink(),
        "lgemri.nrrd: has no label",
    ),
    "dangling link": (
        lambda path: (path.unlink(), path.symlink_to("nowhere")),
        "lgemri.nrrd: no such file",
    ),
}


@pytest.mark.parametrize("kind", SCAN_FAULTS)
def test_a_bad_scan_is_named_and_the_others_are_prepared(la, tmp_path, capsys, kind):
    (raw, folder), (damage, says) = la, SCAN_FAULTS[kind]
    damage(folder / "lgemri.nrrd")
    out = tmp_path / "out"
    assert run("LA", raw, out) == 2
    (line,) = faults(capsys.readouterr().err)
    assert BAD in line and says in line and len(line) < 500
    assert LA.path(out, GOOD).is_file() and not LA.path(out, BAD).exists()
    assert not list(out.rglob(".*")) and (out / "train.list").read_text(
        encoding="utf-8"
    ).split() == [GOOD]


def test_a_header_of_slanted_axes_is_refused(tmp_path, capsys):
    acdc_patient(tmp_path / "raw", "patient099")
    path = tmp_path / "raw" / "training" / "patient099" / "patient099_frame01.nii.gz"
    slanted = np.diag([1.5, 1.5, 8, 1])
    slanted[0, 2] = 5
    nibabel.save(nibabel.Nifti1Image(noise((20, 24, 3)), slanted), path)
    assert run("ACDC", tmp_path / "raw", tmp_path / "out") == 2
    (line,) = faults(capsys.readouterr().err)
    assert "patient099_frame01.nii.gz: the header's axes are not at right angles; resample" in line


@pytest.mark.parametrize("kind", ["missing slice", "two series", "no series"])
def test_a_bad_series_is_named(tmp_path, capsys, kind):
    raw = tmp_path / "raw" / "PANCREAS_0001"
    if kind != "no series":
        series(raw / "study" / "a", 8, skip=4 if kind == "missing slice" else None)
    if kind == "two series":
        series(raw / "study" / "b", 6, uid="1.2.4")
    raw.mkdir(parents=True, exist_ok=True)
    (raw / "LICENSE").write_text("...")
    write_scan(tmp_path / "raw" / "label0001.nii.gz", blob((16, 16, 8), (4, 4, 2), (8, 8, 5)))
    assert run("Pancreas", tmp_path / "raw", tmp_path / "out") == 2
    (line,) = faults(capsys.readouterr().err)
    says = {
        "missing slice": "slices are missing (1), 1-003.dcm and 1-005.dcm are 4 mm apart, the others 2 mm",
        "two series": "2 DICOM series below it, expected one",
        "no series": "no DICOM series below it",
    }
    assert "PANCREAS_0001: " + says[kind] in line


@pytest.mark.parametrize(
    "flags, names",
    [
        (["--dataset", "BRATS"], ["--dataset BRATS: unknown"]),
        (["--dataset", "Pancreas", "--variant", "mc"], ["--variant mc: unknown", "coranet, mcnet"]),
        (["--source", "nowhere"], ["--source nowhere: no such folder"]),
        (["--root_path", "RAW"], ["is the source itself"]),
        (["--variant", "mcnet"], ["--variant: the preparation of LA has no such option"]),
        (["--size", "64", "64", "64"], ["--size: the preparation of LA has no such option"]),
        (["--dims", "2"], ["--dims is only for --dataset own"]),
        (["--dims", "4"], ["--dims"]),
        (["--workers", "-1"], ["-1"]),
        (["--cases", "somebody"], ["--cases somebody: not among the 2 cases"]),
        (["--crop", "half"], ["--crop"]),
        (["--dataset", "KiTS19"], ["no KiTS19 scan below it; docs/data.md"]),
        (["--dataset", "KiTS19", "--size", "0", "64", "64"], ["--size 0 64 64"]),
    ],
)
def test_wrong_flags(la, tmp_path, flags, names):
    raw, _ = la
    start = ["--dataset", "LA", "--source", str(raw), "--root_path", str(tmp_path / "out")]
    refused(
        *names,
        call=lambda: prepare([*start, *[str(raw) if word == "RAW" else word for word in flags]]),
    )
    assert not (tmp_path / "out").exists()


def test_a_scan_twice_and_cases_of_no_list(la, tmp_path):
    raw, folder = la
    shutil.copytree(folder, raw / "Copy" / BAD)
    refused(
        "lgemri.nrrd: belongs to the same case as",
        "remove one of them",
        call=lambda: run("LA", raw, tmp_path / "out"),
    )
    la_scan(tmp_path / "other", "SOMEBODY")
    refused(
        "none of its cases is in a published list",
        call=lambda: run("LA", tmp_path / "other", tmp_path / "out"),
    )


def test_a_place_that_cannot_be_written(la, tmp_path):
    (tmp_path / "file").write_text("")
    refused("file", "--root_path", call=lambda: run("LA", la[0], tmp_path / "file" / "out"))
    place = LA.path(tmp_path / "out", GOOD).parent
    place.parent.mkdir(parents=True)
    place.write_text("a file where a folder should be")
    refused(
        "mri_norm2.h5: cannot be written",
        "--root_path",
        call=lambda: run("LA", la[0], tmp_path / "out"),
    )


# --- nnU-Net's layout


@pytest.fixture(scope="module")
def _own(tmp_path_factory):
    return write_raw_dataset(
        tmp_path_factory.mktemp("own") / "raw", {"imagesTr": 3, "imagesUn": 1, "imagesTs": 1}
    )


@pytest.fixture
def raw(_own, tmp_path):
    return Path(shutil.copytree(_own, tmp_path / "raw"))


def edit(raw: Path, **about) -> None:
    content = {**json.loads((raw / "dataset.json").read_text(encoding="utf-8")), **about}
    (raw / "dataset.json").write_text(
        json.dumps({key: value for key, value in content.items() if value is not ...})
    )


LAYOUT_FAULTS = {
    "no dataset.json": (
        lambda raw: (raw / "dataset.json").unlink(),
        "dataset.json: no such file; docs/data.md",
    ),
    "no JSON": (
        lambda raw: (raw / "dataset.json").write_text("{"),
        "dataset.json: not readable as JSON",
    ),
    "no labels": (
        lambda raw: edit(raw, labels=...),
        "dataset.json: no 'labels' in it; it needs channel_names, labels",
    ),
    "older keys": (
        lambda raw: edit(raw, channel_names=..., modality={"0": "CT"}),
        "(an older nnU-Net's has modality in its place)",
    ),
    "channels from 1": (
        lambda raw: edit(raw, channel_names={"1": "T1"}),
        "channel_names must number the modalities from 0",
    ),
    "labels turned round": (
        lambda raw: edit(raw, labels={"0": "background"}),
        "labels must name values, background 0 among them",
    ),
    "regions": (
        lambda raw: edit(raw, labels={"background": 0, "whole": [1, 2]}),
        "label whole is a region of several values",
    ),
    "same value twice": (
        lambda raw: edit(raw, labels={"background": 0, "a": 1, "b": 1}),
        "two labels have the same value",
    ),
    "count": (
        lambda raw: edit(raw, numTraining=7),
        "numTraining is 7, but there are 3 training cases",
    ),
    "ending": (
        lambda raw: edit(raw, file_ending=".nrrd"),
        "imagesTr: no case in it that ends in _0000.nrrd; look at file_ending",
    ),
    "no imagesTr": (lambda raw: shutil.rmtree(raw / "imagesTr"), "imagesTr: no such folder"),
    "no channel number": (
        lambda raw: (raw / "imagesTr" / "tr0_0000.nii.gz").rename(raw / "imagesTr" / "tr0.nii.gz"),
        "tr0.nii.gz: the name ends in no channel number; rename it, such as tr0_0000.nii.gz",
    ),
    "in two folders": (
        lambda raw: own_case(raw, "imagesUn", "tr1", (), (1, 1, 1), (26, 24, 20)),
        "case tr1 is in train and in unlabelled",
    ),
    "unknown case in the split": (
        lambda raw: (raw / "splits_final.json").write_text(
            '[{"train": ["tr0", "who"], "val": ["tr1"]}]'
        ),
        "splits_final.json: fold 0 names who, which is not a case of imagesTr",
    ),
    "in both parts of the split": (
        lambda raw: (raw / "splits_final.json").write_text('[{"train": ["tr0"], "val": ["tr0"]}]'),
        "splits_final.json: tr0 is in train and in val",
    ),
    "no folds": (
        lambda raw: (raw / "splits_final.json").write_text("{}"),
        "splits_final.json: expected a list of folds",
    ),
}


@pytest.mark.parametrize("kind", LAYOUT_FAULTS)
def test_a_layout_fault_is_told_before_anything_is_written(raw, tmp_path, kind):
    damage, says = LAYOUT_FAULTS[kind]
    damage(raw)
    refused(says, call=lambda: run("own", raw, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


CASE_FAULTS = {
    "no label": (
        lambda raw: (raw / "labelsTr" / "tr0.nii.gz").unlink(),
        "tr0.nii.gz: no such label; a case without label belongs in imagesUn",
    ),
    "a modality is missing": (
        lambda raw: (raw / "imagesTr" / "tr0_0001.nii.gz").unlink(),
        "channels [0] of tr0 are there, expected 0 to 1",
    ),
    "undeclared value": (
        lambda raw: write_scan(
            raw / "labelsTr" / "tr0.nii.gz",
            blob((26, 24, 20), (3, 3, 3), (9, 9, 9), 4),
            (1.2, 0.9, 1.1),
        ),
        "labelsTr/tr0.nii.gz: the label holds 4, expected 0, 1, 5, 7 (declared in dataset.json)",
    ),
    "another grid": (
        lambda raw: write_scan(
            raw / "imagesTr" / "tr0_0001.nii.gz", noise((26, 24, 20)), (1.2, 0.9, 2)
        ),
        "tr0_0001.nii.gz: lies on another grid than tr0_0000.nii.gz",
    ),
    "another shape": (
        lambda raw: write_scan(
            raw / "imagesTr" / "tr0_0001.nii.gz", noise((26, 24, 21)), (1.2, 0.9, 1.1)
        ),
        "tr0_0001.nii.gz: has 26 x 24 x 21 voxels, tr0_0000.nii.gz 26 x 24 x 20",
    ),
    "constant modality": (
        lambda raw: write_scan(
            raw / "imagesTr" / "tr0_0001.nii.gz",
            np.zeros((26, 24, 20), np.int16),
            (1.2, 0.9, 1.1),
            (5, -7, 9),
        ),
        "tr0_0001.nii.gz: the image is constant (every voxel is 0)",
    ),
    "damaged": (
        lambda raw: (raw / "imagesTr" / "tr0_0000.nii.gz").write_bytes(
            (raw / "imagesTr" / "tr0_0000.nii.gz").read_bytes()[:3000]
        ),
        "tr0_0000.nii.gz: cannot be read, it is damaged or incomplete",
    ),
}


@pytest.mark.parametrize("kind", CASE_FAULTS)
def test_a_bad_case_of_own_data_is_named_and_the_others_are_prepared(raw, tmp_path, capsys, kind):
    damage, says = CASE_FAULTS[kind]
    damage(raw)
    out = tmp_path / "out"
    assert run("own", raw, out) == 2
    (line,) = faults(capsys.readouterr().err)
    assert says in line and len(line) < 500, line
    assert (
        (out / "train.list").read_text(encoding="utf-8").split() == ["tr1"]
        and not list(out.rglob(".*"))
        and not (out / "data" / "tr0.h5").exists()
    )
    with h5py.File(out / "data" / "tr1.h5") as file:
        assert file["image"].shape[0] == 2


EXTREME = {
    "too large": (2e302, "intensities from 0 to 7.8e+303 have no standard deviation in float64"),
    "too small": (1e-170, "intensities from 0 to 3.9e-169 have no standard deviation in float64"),
}


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("kind", EXTREME)
def test_intensities_without_a_standard_deviation_are_not_prepared_as_zeros(
    raw, tmp_path, capsys, kind
):
    factor, fault = EXTREME[kind]
    path = raw / "imagesTr" / "tr0_0001.nii.gz"
    array = noise(read_scan(path).shape).astype(np.float64) * factor  # from 0 to 39
    write_scan(path, array, (1.2, 0.9, 1.1), (5, -7, 9))
    assert run("own", raw, tmp_path / "out") == 2
    (line,) = faults(capsys.readouterr().err)
    assert f"tr0_0001.nii.gz: {fault}; correct them, or export the scan again" in line
    assert not (tmp_path / "out" / "data" / "tr0.h5").exists()


def test_intensities_of_la_without_a_standard_deviation_are_not_prepared(la, tmp_path, capsys):
    raw, folder = la
    write_scan(folder / "lgemri.nrrd", noise(SHAPE).astype(np.float64) * 2e302)
    assert run("LA", raw, tmp_path / "out") == 2
    (line,) = faults(capsys.readouterr().err)
    assert "lgemri.nrrd: intensities from 0 to 7.8e+303 have no standard deviation" in line


def test_ct_without_a_standard_deviation_has_no_plan(raw, tmp_path):
    edit(raw, channel_names={"0": "CT", "1": "T2"})
    for case in ("tr0", "tr1"):
        path = raw / "imagesTr" / f"{case}_0000.nii.gz"
        array = read_scan(path).array.astype(np.float64) * 2e302
        write_scan(path, array, (1.2, 0.9, 1.1), (5, -7, 9))
    refused(
        "CT, labelled voxels: intensities from",
        "have no standard deviation in float64; correct the scans in imagesTr",
        call=lambda: run("own", raw, tmp_path / "out"),
    )
    assert not (tmp_path / "out" / "plan.json").exists()


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.mha", "a.nrrd"])
@pytest.mark.parametrize("share", [0.2, 0.95])
def test_a_scan_that_ends_too_early_is_never_read(tmp_path, name, share):
    path = write_scan(tmp_path / name, noise((30, 20, 10)))
    assert np.array_equal(read_scan(path).array, noise((30, 20, 10)))
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refused(name, "again", call=lambda: read_scan(path))


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.mha", "a.nrrd"])
def test_a_voxel_that_is_no_number_is_never_read_as_zero(tmp_path, name, value):
    """ITK's reader of NIfTI writes 0 in its place."""
    array = noise((30, 20, 10)).astype(np.float32)
    array[-1, -1, -1] = value
    refused(
        name,
        "holds NaN or infinite values",
        call=lambda: read_scan(write_scan(tmp_path / name, array)),
    )


def test_no_training_case_at_all_is_one_line(raw, tmp_path):
    for folder in ("imagesTr", "imagesUn"):
        for path in (raw / folder).iterdir():
            path.write_bytes(b"broken")
    refused(
        "no training scan can be prepared; the first fault: ",
        "_0000.nii.gz",
        call=lambda: run("own", raw, tmp_path / "out"),
    )
    assert not (tmp_path / "out").exists()
