"""What is already there counts as finished only if it is what was written: prepared files, slices
and predictions.
"""

import errno
import hashlib
import json
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest
import threshold
from raw_scans import acdc_patient, la_scan, write_raw_dataset, write_scan
from scripts import predict, prepare

from commands import prepare as command
from dataloaders.hdf5 import CONTENT, content_fault, write_hdf5
from datasets.prepare import prepared_files as files
from scans.reading import read_scan
from utils.errors import UserError

PATIENT = "patient099"
SLICE = f"data/slices/{PATIENT}_frame01_slice_2.h5"
VOLUME = f"data/{PATIENT}_frame01.h5"
LA_CASE = "06SR5RBREL16DQ6M8LWS"


@pytest.fixture(autouse=True)
def in_process(monkeypatch):
    """A thread in place of processes, and a network that copies a threshold of its input."""

    @contextmanager
    def threads(_):
        with ThreadPoolExecutor(1) as pool:
            yield pool

    monkeypatch.setattr(command, "worker_pool", threads)
    threshold.register(monkeypatch)


def run(dataset, source, root, *flags):
    return prepare(
        ["--dataset", dataset, "--source", str(source), "--root_path", str(root), *flags]
    )


def contents(root):
    return {
        path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*.h5"))
    }


@pytest.fixture
def acdc(tmp_path):
    """Raw scans of a patient, and the folder that they were prepared into."""
    acdc_patient(tmp_path / "raw", PATIENT)
    assert run("ACDC", tmp_path / "raw", tmp_path / "out") == 0
    return tmp_path / "raw", tmp_path / "out"


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def to_40_bytes(path):
    path.write_bytes(path.read_bytes()[:40])


def empty(path):
    path.write_bytes(b"")


def change_a_voxel(path):
    with h5py.File(path, "a") as file:
        image = file["image"][()]
        image.flat[0] += 0.25
        file["image"][...] = image


def change_the_label(path):
    with h5py.File(path, "a") as file:
        file["label"][...] = 1 - file["label"][()].clip(0, 1)


def change_the_spacing(path):
    with h5py.File(path, "a") as file:
        file.attrs["spacing_mm"] = file.attrs["spacing_mm"] * 2


def remove_the_label(path):
    with h5py.File(path, "a") as file:
        del file["label"]


DAMAGES = (
    cut,
    to_40_bytes,
    empty,
    change_a_voxel,
    change_the_label,
    change_the_spacing,
    remove_the_label,
)


@pytest.mark.parametrize("name", [SLICE, VOLUME])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_prepared_file_that_is_not_what_was_written_is_made_again(acdc, capsys, damage, name):
    raw, out = acdc
    expected = contents(out)
    damage(out / name)
    assert contents(out) != expected
    capsys.readouterr()
    assert run("ACDC", raw, out) == 0
    said = capsys.readouterr().out
    assert "1 cases prepared, 1 kept" in said
    assert "prepared again" in said
    assert contents(out) == expected


def test_slices_that_changed_places_are_made_again(acdc):
    raw, out = acdc
    expected = contents(out)
    other = SLICE.replace("slice_2", "slice_1")
    (out / SLICE).write_bytes(expected[other])
    (out / other).write_bytes(expected[SLICE])
    assert run("ACDC", raw, out) == 0
    assert contents(out) == expected


@pytest.mark.parametrize("damage", [cut, to_40_bytes])
def test_files_of_older_versions_without_hashes_are_read_whole(acdc, capsys, damage):
    raw, out = acdc
    for path in out.rglob("*.h5"):
        with h5py.File(path, "a") as file:
            for key in (CONTENT, files.OTHERS_HASH):
                file.attrs.pop(key, None)
    capsys.readouterr()
    assert run("ACDC", raw, out) == 0
    assert "0 cases prepared, 2 kept" in capsys.readouterr().out
    damage(out / SLICE)
    assert run("ACDC", raw, out) == 0
    assert "1 cases prepared, 1 kept" in capsys.readouterr().out


def test_redo_prepares_every_case_again(acdc, capsys):
    raw, out = acdc
    expected = contents(out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.h5")}
    assert run("ACDC", raw, out, "--redo") == 0
    assert "2 cases prepared, 0 kept" in capsys.readouterr().out
    assert all(path.stat().st_mtime_ns > then for path, then in before.items())
    assert contents(out) == expected


def test_slices_of_two_preparations_are_not_taken_for_one(acdc, monkeypatch):
    """--redo with another scan stops after the first slice; then the first scan is back."""
    raw, out = acdc
    expected = contents(out)
    scan = next(path for path in sorted(raw.rglob("*.nii.gz")) if "_gt" not in path.name)
    first = scan.read_bytes()
    array = read_scan(scan).array
    write_scan(scan, array[::-1].copy(), (1, 1, 5))
    written = []

    def full_disk(path, *arguments, **options):
        if written:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(path)
        return write_hdf5(path, *arguments, **options)

    with monkeypatch.context() as patch, pytest.raises(UserError, match="No space left"):
        patch.setattr(files, "write_hdf5", full_disk)
        run("ACDC", raw, out, "--redo")
    assert len(written) == 1
    assert contents(out) != expected
    scan.write_bytes(first)
    assert run("ACDC", raw, out) == 0
    assert contents(out) == expected


def test_a_shorter_scan_leaves_no_slices_of_the_longer_one(tmp_path):
    raw, out = write_raw_dataset(tmp_path / "raw", {"imagesTr": 3, "imagesTs": 1}), tmp_path / "out"
    assert run("own", raw, out, "--dims", "2") == 0
    slices = sorted((out / "data" / "slices").glob("tr0_slice_*.h5"))
    for folder in ("imagesTr", "labelsTr"):
        for path in (raw / folder).glob("tr0*"):
            scan = read_scan(path)
            write_scan(path, scan.array[:, :, :-3].copy(), scan.geometry.spacing)
    assert run("own", raw, out, "--dims", "2", "--redo") == 0
    shorter = sorted((out / "data" / "slices").glob("tr0_slice_*.h5"))
    assert len(shorter) < len(slices)
    listed = (out / "train_slices.list").read_text(encoding="utf-8").split()
    assert [name for name in listed if name.startswith("tr0_")] == [
        f"tr0_slice_{number}" for number in range(1, len(shorter) + 1)
    ]


def test_names_in_a_damaged_file_lead_to_no_other_file(tmp_path):
    la_scan(tmp_path / "raw", LA_CASE)
    out = tmp_path / "out"
    assert run("LA", tmp_path / "raw", out) == 0
    mark = next(out.rglob("*.h5"))
    mine = tmp_path / f"{LA_CASE}_slice_1.h5"
    mine.write_bytes(b"mine")
    for names in (f'["../{mine.name}"]', f'["{mine}"]', '{"a": 1}', "[1]", "no json"):
        with h5py.File(mark, "a") as file:
            file.attrs["same_case"] = names
        assert run("LA", tmp_path / "raw", out) == 0
        assert mine.read_bytes() == b"mine"


def test_the_hash_of_a_file_covers_names_types_shapes_and_attributes(tmp_path):
    path = tmp_path / "a.h5"
    image = np.arange(12, dtype=np.float32).reshape(3, 4)

    def recorded(data, attributes):
        digest = write_hdf5(path, data, attributes)
        assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
        assert content_fault(path) == ""
        with h5py.File(path) as file:
            return file.attrs[CONTENT]

    hashes = [
        recorded({"image": image}, {"a": 1}),
        recorded({"label": image}, {"a": 1}),
        recorded({"image": image.astype(np.float64)}, {"a": 1}),
        recorded({"image": image.reshape(4, 3)}, {"a": 1}),
        recorded({"image": image}, {"a": 2}),
        recorded({"image": image}, {"a": "1"}),
        recorded({"image": image}, {}),
    ]
    assert len(set(hashes)) == len(hashes)
    assert recorded({"image": image}, {"a": 1, CONTENT: "of another file"}) == hashes[0]


# predictions


@pytest.fixture
def predicted(tmp_path):
    """A call of predict.py for two scans, already done once with probabilities, and its output
    folder.
    """
    plan = threshold.plan()
    model = threshold.checkpoint(tmp_path / "c.pth", threshold.info_of(plan), (8, 8, 6), plan)
    for seed, name in enumerate(("a.nii.gz", "b.nrrd")):
        noise = np.random.default_rng(seed).integers(0, 500, (14, 12, 10)).astype(np.int16)
        write_scan(tmp_path / "in" / name, noise, (1, 2, 3))
    paths = ["--checkpoint", model, "--input", tmp_path / "in", "--output", tmp_path / "out"]

    def again(*flags):
        return predict([*map(str, paths), "--device", "cpu", *flags])

    assert again("--probabilities") == 0
    return again, tmp_path / "out"


def voxels(out):
    return {name: read_scan(out / name).array.tolist() for name in ("a.nii.gz", "b.nrrd")}


@pytest.mark.parametrize("damage", [cut, to_40_bytes, empty])
@pytest.mark.parametrize("name", ["a.nii.gz", "a.npz"])
def test_a_damaged_prediction_is_made_again(predicted, capsys, damage, name):
    again, out = predicted
    expected, file = voxels(out), (out / name).read_bytes()
    damage(out / name)
    capsys.readouterr()
    assert again("--probabilities") == 0
    assert "1 predicted, 1 kept" in capsys.readouterr().out
    assert voxels(out) == expected
    assert len((out / name).read_bytes()) == len(file)


@pytest.mark.parametrize("name", ["a.nii.gz", "b.nrrd"])
def test_a_prediction_that_somebody_corrected_is_kept_and_named(predicted, capsys, name):
    again, out = predicted
    scan = read_scan(out / name)
    write_scan(out / name, (1 - scan.array).astype(np.uint8), scan.geometry.spacing)
    corrected = (out / name).read_bytes()
    assert again() == 2
    assert f"{name}: has changed since it was predicted; move it to" in capsys.readouterr().err
    assert (out / name).read_bytes() == corrected
    assert again("--overwrite") == 0
    assert (out / name).read_bytes() != corrected


def test_predict_json_holds_the_hashes_of_the_files(predicted):
    _, out = predicted
    cases = json.loads((out / "predict.json").read_text(encoding="utf-8"))["cases"]
    for name, file in (("a", "a.nii.gz"), ("b", "b.nrrd")):
        for key, path in (
            ("file_sha256", out / file),
            ("probabilities_sha256", out / f"{name}.npz"),
        ):
            assert cases[name][key] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_prediction_without_its_hash_is_not_finished(predicted, capsys):
    """As a kill between the file and its record leaves it."""
    again, out = predicted
    path = out / "predict.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["cases"]["a"]["file_sha256"] = ""
    path.write_text(json.dumps(content), encoding="utf-8")
    capsys.readouterr()
    assert again() == 0
    assert "1 predicted, 1 kept" in capsys.readouterr().out


def test_predictions_of_older_versions_without_hashes_have_to_be_readable(predicted, capsys):
    again, out = predicted
    path = out / "predict.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    for record in content["cases"].values():
        del record["file_sha256"], record["probabilities_sha256"]
    path.write_text(json.dumps(content), encoding="utf-8")
    capsys.readouterr()
    assert again("--probabilities") == 0
    assert "0 predicted, 2 kept" in capsys.readouterr().out
    to_40_bytes(out / "a.nii.gz")
    cut(out / "b.npz")
    assert again("--probabilities") == 0
    assert "2 predicted, 0 kept" in capsys.readouterr().out


def test_overwrite_predicts_again_and_leaves_no_older_probabilities(predicted, capsys):
    again, out = predicted
    capsys.readouterr()
    assert again("--overwrite") == 0
    assert "2 predicted, 0 kept" in capsys.readouterr().out
    assert list(out.glob("*.npz")) == []


def test_a_file_of_somebody_else_with_the_name_of_probabilities_stays(predicted):
    again, out = predicted
    with zipfile.ZipFile(out / "a.npz", "w") as archive:
        archive.writestr("features.npy", b"mine")
    assert again("--overwrite") == 0
    assert [path.name for path in Path(out).glob("*.npz")] == ["a.npz"]
