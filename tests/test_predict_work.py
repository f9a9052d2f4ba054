"""Predicting many scans: formats, work that continues, shares of it, and what a user can do wrong."""

import json
import os
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import threshold
import torch
from damage import CRASHES
from helpers import LA, unfinished
from raw_scans import ORIENTATIONS, write_scan
from scripts import predict

from commands import predict_case as program
from commands.predict_memory import ScanHeader, needed_bytes, prepared_shape
from commands.predict_model import read_model
from commands.predict_settings import PredictSettings
from dataloaders.dataset_info import DatasetInfo
from scans.geometry import Geometry
from scans.reading import read_scan
from training.memory import forward_bytes
from utils.errors import UserError

SHAPE, PATCH = (14, 12, 10), (8, 8, 6)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    threshold.register(monkeypatch)


@pytest.fixture
def model(tmp_path) -> Path:
    plan = threshold.plan()
    return threshold.checkpoint(tmp_path / "c.pth", threshold.info_of(plan), PATCH, plan)


def run(checkpoint, source: Path, output: Path, *flags) -> int:
    paths = [str(path) for path in (checkpoint if isinstance(checkpoint, list) else [checkpoint])]
    return predict(
        [
            "--checkpoint",
            *paths,
            "--input",
            str(source),
            "--output",
            str(output),
            "--device",
            "cpu",
            *map(str, flags),
        ]
    )


def scans(folder: Path, *names: str) -> list[np.ndarray]:
    """Files of noise; what is above the mean of each."""
    arrays = [
        np.random.default_rng(seed).integers(0, 500, SHAPE).astype(np.int16)
        for seed in range(len(names))
    ]
    for name, array in zip(names, arrays, strict=True):
        write_scan(folder / name, array, (1, 2, 3), (5, 6, 7), ORIENTATIONS["LAS"])
    return [array > array.mean() for array in arrays]


def cases(output: Path, name: str = "predict.json") -> dict:
    return json.loads((output / name).read_text(encoding="utf-8"))["cases"]


def written(output: Path) -> list[str]:
    return sorted(
        path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()
    )


def test_formats_and_folders(tmp_path, model):
    """Each scan's prediction lies below the output as the scan below the input; NRRD stays NRRD,
    the rest becomes NIfTI.
    """
    expected = scans(tmp_path / "in", "a.nii.gz", "b.nii", "c.nrrd", "deep/d.mha", ".hidden.nii.gz")
    assert run(model, tmp_path / "in", tmp_path / "out") == 0
    assert written(tmp_path / "out") == [
        "a.nii.gz",
        "b.nii.gz",
        "c.nrrd",
        "deep/d.nii.gz",
        "predict.json",
    ]
    names = (
        ("a.nii.gz", "b.nii.gz", "c.nrrd", "deep/d.nii.gz"),
        ("a.nii.gz", "b.nii", "c.nrrd", "deep/d.mha"),
    )
    for name, source, mask in zip(*names, expected[:4], strict=True):
        found, scan = read_scan(tmp_path / "out" / name), read_scan(tmp_path / "in" / source)
        assert found.array.dtype == np.uint8 and np.array_equal(found.array, mask)
        np.testing.assert_allclose(found.geometry.affine, scan.geometry.affine, atol=1e-5)
    assert cases(tmp_path / "out")["c"]["classes"]["organ 1"]["ml"] == pytest.approx(
        expected[2].sum() * 6 / 1000, abs=1e-4
    )
    assert set(cases(tmp_path / "out")["c"]["seconds"]) == {"prepare", "predict", "write"}


@pytest.mark.parametrize("name, result", [
    ("a.NII.GZ", "a.nii.gz"), ("a.NII", "a.nii.gz"), ("a.hdr", "a.nii.gz"), ("a.HDR", "a.nii.gz"), ("a.mhd", "a.nii.gz"),
    ("a.nhdr", "a.nrrd"), ("a.NRRD", "a.nrrd"),
])  # fmt: skip
def test_every_spelling_is_predicted_on_the_scans_own_grid(tmp_path, model, name, result):
    folder = tmp_path / "in"
    (expected,) = scans(folder, name.lower())
    for path in list(folder.iterdir()):
        if name[2:].isupper():
            path.rename(path.with_name("a" + path.name[1:].upper()))
    source = read_scan(folder / name).geometry
    assert run(model, folder, tmp_path / "out") == 0
    assert sorted(path.name for path in (tmp_path / "out").glob("a*")) == [result]
    prediction = read_scan(tmp_path / "out" / result)
    assert np.array_equal(prediction.array, expected)
    assert np.allclose(prediction.geometry.affine, source.affine, atol=1e-5)


@pytest.mark.parametrize("name", ["a.img", "a.hdr", "a.NII.GZ"])
def test_one_file_may_have_any_spelling(tmp_path, model, name):
    (expected,) = scans(tmp_path / "in", name.lower())
    path = tmp_path / "in" / name
    (tmp_path / "in" / name.lower()).rename(path)
    assert run(model, path, tmp_path / "out") == 0
    assert np.array_equal(read_scan(tmp_path / "out" / "a.nii.gz").array, expected)


def test_a_nifti_file_named_like_another_format_keeps_its_place(tmp_path, model):
    (expected,) = scans(tmp_path / "in", "a.nii")
    (tmp_path / "in" / "a.nii").rename(tmp_path / "in" / "a.mha")
    assert run(model, tmp_path / "in", tmp_path / "out") == 0
    prediction = read_scan(tmp_path / "out" / "a.nii.gz")
    assert np.array_equal(prediction.array, expected)
    source = read_scan(tmp_path / "in" / "a.mha").geometry
    assert np.allclose(prediction.geometry.affine, source.affine)


def test_a_2d_nifti_is_predicted_in_two_dimensions(tmp_path):
    plan = threshold.plan(2)
    model = threshold.checkpoint(tmp_path / "c.pth", threshold.info_of(plan), SHAPE[1::-1], plan)
    array = np.random.default_rng(0).integers(0, 500, SHAPE[:2]).astype(np.int16)
    (tmp_path / "in").mkdir()
    nibabel.save(nibabel.Nifti1Image(array, np.diag([-1, -1, 3, 1])), tmp_path / "in" / "a.nii.gz")
    assert run(model, tmp_path / "in", tmp_path / "out") == 0
    found = nibabel.load(tmp_path / "out" / "a.nii.gz")
    assert found.shape == SHAPE[:2]
    assert np.array_equal(np.asarray(found.dataobj), array > array.mean())


def test_bad_headers_and_names_stop_no_other_scan(tmp_path, model, capsys):
    """Headers that crash ITK are reported; a name that is not UTF-8 is no fault."""
    expected = scans(tmp_path / "in", "good.nii.gz", "m.nrrd")
    for name, data in CRASHES.items():
        (tmp_path / "in" / name).write_bytes(data)
    latin = os.fsdecode(b"M\xfcller.nrrd")
    (tmp_path / "in" / "m.nrrd").rename(tmp_path / "in" / latin)
    assert run(model, tmp_path / "in", tmp_path / "out") == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "not predicted" in line]
    assert len(lines) == len(CRASHES) and not any("memory" in line for line in lines)
    assert np.array_equal(read_scan(tmp_path / "out" / "good.nii.gz").array, expected[0])
    assert np.array_equal(read_scan(tmp_path / "out" / latin).array, expected[1])
    assert run(model, tmp_path / "in" / latin, tmp_path / "out") == 0
    assert "0 predicted, 1 kept" in capsys.readouterr().out


@pytest.mark.parametrize("ending", ["mhd", "nhdr", "hdr"])
def test_changed_voxels_of_a_detached_header_are_noticed(tmp_path, model, capsys, ending):
    scans(tmp_path / "in", f"a.{ending}")
    assert run(model, tmp_path / "in", tmp_path / "out") == 0
    array = np.random.default_rng(9).integers(0, 500, SHAPE).astype(np.int16)
    write_scan(tmp_path / "in" / f"a.{ending}", array, (1, 2, 3), (5, 6, 7), ORIENTATIONS["LAS"])
    assert run(model, tmp_path / "in", tmp_path / "out") == 2
    assert "made of another scan" in capsys.readouterr().err


def test_a_dicom_series_becomes_nifti_in_its_place(tmp_path, model):
    array = np.random.default_rng(0).integers(0, 500, SHAPE).astype(np.int16)
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    folder = tmp_path / "in" / "patient" / "series"
    folder.mkdir(parents=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for k in range(SHAPE[2]):
        part = image[:, :, k]
        tags = {
            "0008|0060": "CT",
            "0020|000e": "1.2.3",
            "0020|000d": "1.2",
            "0008|0018": f"1.2.3.{k + 1}",
            "0020|0013": str(k),
        }
        tags |= {
            "0020|0032": f"-10\\20\\{2.5 * k}",
            "0020|0037": "1\\0\\0\\0\\1\\0",
            "0028|0030": "0.5\\0.5",
        }
        for key, value in tags.items():
            part.SetMetaData(key, value)
        writer.SetFileName(str(folder / f"{k:03d}.dcm"))
        writer.Execute(part)
    assert run(model, tmp_path / "in", tmp_path / "out") == 0
    found = nibabel.load(tmp_path / "out" / "patient" / "series.nii.gz")
    assert np.array_equal(np.asarray(found.dataobj), array > array.mean())
    np.testing.assert_allclose(found.affine, read_scan(folder).geometry.affine, atol=1e-5)
    assert cases(tmp_path / "out")["patient/series"]["sources"] == ["series"]


@pytest.mark.parametrize("colours", [1, 3])
def test_pictures(tmp_path, colours):
    """A network for slices takes PNG; class k + 1 where the k-th colour, z-scored, is the largest
    above 0.
    """
    values = (0, 40, 80, 120)[: colours + 1]
    plan = threshold.plan(2, channels=("R", "G", "B")[:colours], values=values)
    model = threshold.checkpoint(tmp_path / "c.pth", threshold.info_of(plan), (20, 30), plan)
    picture = np.random.default_rng(0).integers(0, 255, (20, 30, colours)).astype(np.uint8)
    (tmp_path / "in").mkdir()
    sitk.WriteImage(
        sitk.GetImageFromArray(picture.squeeze(), isVector=colours > 1),
        str(tmp_path / "in" / "p.png"),
    )
    assert run(model, tmp_path / "in", tmp_path / "out", "--probabilities") == 0
    z = (picture - picture.mean((0, 1))) / picture.std((0, 1))
    expected = np.array(values)[np.argmax(np.concatenate([np.zeros((20, 30, 1)), z], 2), 2)]
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / "p.png")))
    assert found.dtype == np.uint8 and np.array_equal(found, expected)
    assert cases(tmp_path / "out")["p"]["classes"]["organ 40"] == {
        "voxels": int((expected == 40).sum()),
        "ml": None,
    }
    with np.load(tmp_path / "out" / "p.npz") as file:
        assert file["probabilities"].shape == (colours + 1, 1, 20, 30)


def test_a_picture_whose_name_is_not_utf8_is_predicted(tmp_path):
    plan = threshold.plan(2)
    model = threshold.checkpoint(tmp_path / "c.pth", threshold.info_of(plan), (20, 30), plan)
    picture = np.random.default_rng(0).integers(0, 255, (20, 30)).astype(np.uint8)
    (tmp_path / "in").mkdir()
    sitk.WriteImage(sitk.GetImageFromArray(picture), str(tmp_path / "in" / "p.png"))
    latin = os.fsdecode(b"M\xfcller.png")
    (tmp_path / "in" / "p.png").rename(tmp_path / "in" / latin)
    (tmp_path / "in" / "other.png").write_bytes(b"no picture")
    assert run(model, tmp_path / "in", tmp_path / "out") == 2
    (tmp_path / "out" / latin).rename(tmp_path / "p.png")
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "p.png")))
    assert np.array_equal(found, picture > picture.mean())


def test_pictures_for_a_page_of_ones_own(tmp_path):
    """Their values are as they are; raw scans of such data cannot be prepared."""
    info = DatasetInfo(
        name="Polyps", class_names=("a", "b"), dims=2, file="{}.h5", train_list="t", test_list="t"
    )
    model = threshold.checkpoint(tmp_path / "c.pth", info, (8, 8), level=99.5)
    picture = np.arange(64, dtype=np.uint8).reshape(8, 8) * 3
    (tmp_path / "in").mkdir()
    sitk.WriteImage(sitk.GetImageFromArray(picture), str(tmp_path / "in" / "p.png"))
    assert run(model, tmp_path / "in", tmp_path / "out") == 0
    assert np.array_equal(
        sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / "p.png"))), picture > 99
    )
    scans(tmp_path / "volumes", "a.nii.gz")
    assert run(model, tmp_path / "volumes", tmp_path / "other") == 2


def test_finished_predictions_are_kept(tmp_path, model, capsys, monkeypatch):
    scans(tmp_path / "in", "a.nii.gz", "b.nii.gz")
    out = tmp_path / "out"
    assert run(model, tmp_path / "in", out) == 0
    before = (out / "a.nii.gz").stat().st_mtime_ns
    (out / "b.nii.gz").unlink()  # as if it had been interrupted there
    assert (
        run(model, tmp_path / "in", out) == 0 and "1 predicted, 1 kept" in capsys.readouterr().out
    )
    assert (
        run(model, tmp_path / "in", out, "--probabilities") == 0
        and "2 predicted, 0 kept" in capsys.readouterr().out
    )
    assert (
        run(model, tmp_path / "in", out, "--probabilities") == 0
        and "0 predicted, 2 kept" in capsys.readouterr().out
    )
    assert (
        run(model, tmp_path / "in", out, "--overwrite") == 0
        and "2 predicted, 0 kept" in capsys.readouterr().out
    )
    assert (out / "a.nii.gz").stat().st_mtime_ns > before and set(cases(out)) == {"a", "b"}


def test_work_that_is_interrupted_continues_and_leaves_nothing_half_written(
    tmp_path, model, capsys, monkeypatch
):
    expected = scans(tmp_path / "in", "a.nii.gz", "b.nii.gz", "c.nii.gz")
    out, whole = tmp_path / "out", program.write_labels

    def interrupted(path, *rest):
        if path.name.startswith("b"):
            raise KeyboardInterrupt
        whole(path, *rest)

    monkeypatch.setattr(program, "write_labels", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(model, tmp_path / "in", out)
    assert written(out) == ["a.nii.gz", "predict.json"]
    monkeypatch.setattr(program, "write_labels", whole)
    unfinished(out / "b.nii.gz").write_text("what a killed process leaves")
    assert (
        run(model, tmp_path / "in", out) == 0 and "2 predicted, 1 kept" in capsys.readouterr().out
    )
    assert written(out) == ["a.nii.gz", "b.nii.gz", "c.nii.gz", "predict.json"]
    assert all(
        np.array_equal(read_scan(out / f"{name}.nii.gz").array, mask)
        for name, mask in zip("abc", expected, strict=True)
    )


def test_results_and_their_order_do_not_depend_on_how_many_scans_are_prepared_ahead(
    tmp_path, model
):
    names = "dbeac"
    scans(tmp_path / "in", *(f"{name}.nii.gz" for name in names))
    (tmp_path / "in" / "bb.nii.gz").write_bytes(b"no scan")
    for count in (0, 1, 3):
        out = tmp_path / f"out{count}"
        assert run(model, tmp_path / "in", out, "--probabilities", "--ahead", count) == 2
        assert list(cases(out)) == sorted(names)
        for name in names:
            first = tmp_path / "out0" / name
            assert (out / f"{name}.nii.gz").read_bytes() == Path(f"{first}.nii.gz").read_bytes()
            with np.load(out / f"{name}.npz") as ours, np.load(f"{first}.npz") as theirs:
                assert np.array_equal(ours["probabilities"], theirs["probabilities"])


def test_each_scan_that_cannot_be_predicted_or_written_is_named_in_the_order_of_scans(
    tmp_path, model, capsys, monkeypatch
):
    """a is found to be broken while its file is written, b while it is read."""
    scans(tmp_path / "in", "a.nii.gz", "c.nii.gz")
    (tmp_path / "in" / "b.nii.gz").write_bytes(b"no scan")
    whole = program.write_labels

    def refused(path, *rest):
        if path.name.startswith("a"):
            raise UserError(f"{path}: no such place")
        whole(path, *rest)

    monkeypatch.setattr(program, "write_labels", refused)
    assert run(model, tmp_path / "in", tmp_path / "out") == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "not predicted:" in line]
    assert [line.split("not predicted: ")[1][0] for line in lines] == ["a", "b"]


def test_a_full_disk_while_writing_in_the_background_ends_the_work(tmp_path, model, monkeypatch):
    scans(tmp_path / "in", "a.nii.gz", "b.nii.gz", "c.nii.gz")

    def full(path, *rest):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(program, "write_labels", full)
    with pytest.raises(UserError, match=r"No space left on device\); free space"):
        run(model, tmp_path / "in", tmp_path / "out", "--probabilities")
    assert written(tmp_path / "out") == ["a.npz", "predict.json"]


def test_an_interrupted_prediction_leaves_no_probabilities_on_disk(tmp_path, model, monkeypatch):
    """b is predicted and its probabilities are on disk when writing a is interrupted."""
    scans(tmp_path / "in", "a.nii.gz", "b.nii.gz")

    def interrupted(path, *rest):
        raise KeyboardInterrupt

    monkeypatch.setattr(program, "write_labels", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(model, tmp_path / "in", tmp_path / "out", "--probabilities")
    assert written(tmp_path / "out") == ["a.npz", "predict.json"]


def test_predictions_with_other_blending_or_precision_are_not_mixed(tmp_path, model):
    scans(tmp_path / "in", "a.nii.gz")
    run(model, tmp_path / "in", tmp_path / "out", "--amp", "off")
    with pytest.raises(UserError, match="contains predictions with different blend; name another"):
        run(model, tmp_path / "in", tmp_path / "out", "--amp", "off", "--blend", "uniform")


@pytest.mark.parametrize(
    "dims, dataset, blend", [(3, None, "gaussian"), (3, LA, None), (2, None, None)]
)
def test_only_volumes_of_own_data_are_blended_with_gaussian_weights_by_default(
    tmp_path, dims, dataset, blend
):
    plan = threshold.plan(dims)
    path = tmp_path / "one.pth"
    if dataset is None:
        threshold.checkpoint(path, threshold.info_of(plan), (8, 8, 6)[:dims], plan)
    else:
        threshold.checkpoint(path, dataset, (8, 8, 6))
    scans(tmp_path / "in", "a.nii.gz")
    assert run(path, tmp_path / "in", tmp_path / "out") == 0
    content = json.loads((tmp_path / "out" / "predict.json").read_text(encoding="utf-8"))
    assert content["made_with"].get("blend") == blend


@pytest.mark.parametrize(
    "flags, recorded", [((), "linear"), (("--interpolation", "nearest"), None)]
)
def test_slices_are_resized_linearly_by_default(tmp_path, flags, recorded):
    plan = threshold.plan(2)
    path = threshold.checkpoint(tmp_path / "c.pth", threshold.info_of(plan), (8, 8), plan)
    scans(tmp_path / "in", "a.nii.gz")
    assert run(path, tmp_path / "in", tmp_path / "out", *flags) == 0
    content = json.loads((tmp_path / "out" / "predict.json").read_text(encoding="utf-8"))
    assert content["made_with"].get("interpolation") == recorded


def test_volumes_have_no_interpolation(tmp_path, model):
    scans(tmp_path / "in", "a.nii.gz")
    with pytest.raises(UserError, match="--interpolation: is for networks of slices"):
        run(model, tmp_path / "in", tmp_path / "out", "--interpolation", "nearest")


def test_memory_counts_the_scans_that_are_prepared_ahead(tmp_path):
    """Another scan that waits is kept in float32, 4 bytes per voxel."""
    model = model_of(tmp_path, (None,) * 3)
    large = header((512, 512, 600), (0.8, 0.8, 1.0))
    one = needed_bytes(model, large, ahead=1)
    assert needed_bytes(model, large, ahead=2) - one == 4 * 512 * 512 * 600


def test_memory_with_scans_ahead_is_that_of_preparing_and_predicting_together(tmp_path):
    """Preparing takes 24 bytes per voxel, more than predicting, and writing 3."""
    model = model_of(tmp_path, (None,) * 3)
    large = header((512, 512, 600), (0.8, 0.8, 1.0))
    alone = needed_bytes(model, large)
    together = needed_bytes(model, large, ahead=1)
    assert alone + 3 * 512 * 512 * 600 < together < 2 * alone


def test_parts_share_the_work_and_a_later_run_knows_of_all(tmp_path, model, capsys):
    scans(tmp_path / "in", *(f"{name}.nii.gz" for name in "abcde"))
    out = tmp_path / "out"
    assert (
        run(model, tmp_path / "in", out, "--part", "1/2") == 0
        and run(model, tmp_path / "in", out, "--part", "2/2") == 0
    )
    assert list(cases(out, "predict_1of2.json")) == ["a", "c", "e"] and list(
        cases(out, "predict_2of2.json")
    ) == ["b", "d"]
    capsys.readouterr()
    scans(tmp_path / "in", *(f"{name}.nii.gz" for name in "abcdef"))
    assert (
        run(model, tmp_path / "in", out) == 0 and "1 predicted, 5 kept" in capsys.readouterr().out
    )
    assert list(cases(out)) == list("abcdef")


def test_one_bad_scan_stops_no_other(tmp_path, model, capsys):
    scans(tmp_path / "in", "a.nii.gz", "c.nii.gz")
    (tmp_path / "in" / "b.nii.gz").write_bytes(b"no scan")
    assert run(model, tmp_path / "in", tmp_path / "out") == 2
    said = capsys.readouterr()
    assert (
        f"not predicted: b: {tmp_path / 'in' / 'b.nii.gz'}: " in said.err
        and "2 predicted, 0 kept, 1 not predicted" in said.out
    )
    assert written(tmp_path / "out") == ["a.nii.gz", "c.nii.gz", "predict.json"]


def test_predictions_of_another_network_or_scan_are_not_touched(tmp_path, model, capsys):
    scans(tmp_path / "in", "a.nii.gz")
    out = tmp_path / "out"
    run(model, tmp_path / "in", out)
    before = (out / "a.nii.gz").read_bytes()
    plan = threshold.plan()
    other = threshold.checkpoint(
        tmp_path / "other.pth", threshold.info_of(plan), PATCH, plan, level=0.3
    )
    with pytest.raises(
        UserError,
        match=r"predict\.json: contains predictions with different checkpoints; name another --output, or use --overwrite",
    ):
        run(other, tmp_path / "in", out)
    with pytest.raises(UserError, match="different tta"):
        run(model, tmp_path / "in", out, "--tta", "mirror")
    capsys.readouterr()
    write_scan(tmp_path / "in" / "a.nii.gz", np.arange(1680).reshape(SHAPE).astype(np.int16))
    assert (
        run(model, tmp_path / "in", out) == 2
        and "was made of another scan" in capsys.readouterr().err
    )
    (out / "predict.json").unlink()
    assert (
        run(model, tmp_path / "in", out) == 2
        and "a.nii.gz: exists, but is not in predict.json" in capsys.readouterr().err
    )
    assert (out / "a.nii.gz").read_bytes() == before
    assert (
        run(model, tmp_path / "in", out, "--overwrite") == 0
        and (out / "a.nii.gz").read_bytes() != before
    )


def model_of(tmp_path, spacing, classes=3, patch=(112, 112, 80), dims=3):
    plan = threshold.plan(dims, spacing=spacing, values=tuple(range(classes)))
    path = threshold.checkpoint(tmp_path / "large.pth", threshold.info_of(plan), patch, plan)
    return read_model(
        PredictSettings(checkpoint=(path,), input=tmp_path, output=tmp_path / "out"),
        torch.device("cpu"),
    )


def header(shape, spacing, letters="RAS") -> ScanHeader:
    return ScanHeader(
        Path("ct.nii"),
        shape,
        Geometry(np.array(spacing), np.zeros(3), np.array(ORIENTATIONS[letters], float)),
    )


def test_memory_is_said_before_and_stays_below_6_gib_for_a_large_ct(tmp_path, model, capsys):
    """3.6 GiB were measured for 512 x 512 x 600 voxels as they are and for the same resampled from
    0.8 x 0.8 x 1 mm to 1 mm.
    """
    large = header((512, 512, 600), (0.8, 0.8, 1.0))
    for spacing in ((None,) * 3, (1.0, 1.0, 1.0)):
        assert 3.6 < needed_bytes(model_of(tmp_path, spacing), large) / 2**30 < 4.6
    scans(tmp_path / "in", "a.nii.gz", "b.nii.gz")
    write_scan(
        tmp_path / "in" / "b.nii.gz", np.arange(40 * 30 * 20).reshape(40, 30, 20).astype(np.int16)
    )
    (tmp_path / "in" / "broken.nii.gz").write_bytes(b"no scan")
    assert run(model, tmp_path / "in", tmp_path / "out") == 2
    assert (
        f"memory: about 0.4 GiB, for {tmp_path / 'in' / 'b.nii.gz'} (40 x 30 x 20), with"
        in capsys.readouterr().out
    )


def test_memory_knows_what_a_scan_becomes(tmp_path):
    """Voxels along x, y, z at 1 x 2 x 5 mm, whatever the order of the file's axes: I, P, L is z, y,
    x.
    """
    model = model_of(tmp_path, (1.0, 2.0, 5.0))
    assert prepared_shape(model, header((40, 60, 20), (2.0, 1.0, 3.0))) == (80, 30, 12)
    assert prepared_shape(model, header((20, 60, 40), (3.0, 1.0, 2.0), "IPL")) == (80, 30, 12)
    plane = model_of(tmp_path, (1.0, 1.0, None), patch=(96, 96), dims=2)
    assert prepared_shape(plane, header((40, 60, 20), (2.0, 1.0, 3.0))) == (80, 60, 20)


def test_memory_of_a_pass_counts_what_is_alive_together():
    """Input 1, convolution 4 and ReLU 4 channels at once; weights of 4 x 9 + 4 and 2 x 4 + 2
    numbers.
    """
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(4, 2, 1)
    )
    net.check_size = lambda size: None
    weights = 4 * (40 + 10)
    assert forward_bytes(net, 1, (32, 32), 1) == weights + 9 * 4 * 32 * 32
    assert forward_bytes(net, 1, (64, 64), 3) == weights + 3 * 9 * 4 * 64 * 64


def test_labels_beside_published_scans_are_no_input(tmp_path):
    scans(tmp_path / "in", "x/lgemri.nrrd", "x/laendo.nrrd")
    model = threshold.checkpoint(tmp_path / "c.pth", LA, PATCH)
    assert (
        run(model, tmp_path / "in", tmp_path / "in" / "out") == 0
    )  # an output inside the input is no input either
    assert run(model, tmp_path / "in", tmp_path / "in" / "out") == 0
    assert written(tmp_path / "in" / "out") == ["predict.json", "x/lgemri.nrrd"]


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--input", "nowhere"], "no such file or folder"),
        (["--input", "empty"], "no scan below it"),
        (["--input", "pictures"], "pictures are for 2-D networks"),
        (["--input", "nnunet"], "name the folder of the scans to predict"),
        (["--input", "twice"], "would have the same name as that of"),
        (["--input", "notes.txt"], "for a DICOM series name the folder"),
        (["--output", "in"], "is the input itself"),
        (["--output", "."], "contains the input, whose files would be taken for predictions"),
        (["--output", "notes.txt"], "is a file; name a folder"),
        (["--part", "3/2"], "expected i/n"),
        (["--part", "half"], "expected i/n"),
        (["--batch", "-1"], "a number of windows"),
        (["--stride", "4", "4"], "give three steps"),
        (["--ahead", "-1"], "a number of scans, 0 for none"),
        (["--box", "0", "4", "0", "4", "0", "4"], "preparation of mine has no such option"),
        (["--variant", "mcnet"], "has no such option"),
        (["--dataset", "LA"], "is a checkpoint of mine; remove --dataset"),
        (["--checkpoint", "plain.pth"], "name it with --dataset"),
        (["--checkpoint", "none.pth"], "none.pth: no such run"),
        (
            ["--checkpoint", "c.pth", "two.pth"],
            "was trained on other data or with another preparation",
        ),
        (["--checkpoint", "broken.pth"], "its plan is not understood"),
    ],
)
def test_mistakes_are_named_in_one_line_and_nothing_is_written(
    tmp_path, model, monkeypatch, flags, words
):
    monkeypatch.chdir(tmp_path)
    scans(Path("in"), "a.nii.gz")
    scans(Path("twice"), "a.nii.gz", "a.nii")
    for folder in ("empty", "pictures", "nnunet"):
        Path(folder).mkdir()
    Path("pictures/p.png").touch()
    Path("nnunet/dataset.json").touch()
    Path("notes.txt").write_text("no scan")
    torch.save(threshold.Threshold3(1, 2).state_dict(), "plain.pth")
    plan = threshold.plan(spacing=(1.0, 1.0, 1.0))
    threshold.checkpoint(Path("two.pth"), threshold.info_of(plan), PATCH, plan)
    content = torch.load("c.pth", weights_only=True)
    torch.save({**content, "plan": {"version": 9}}, "broken.pth")
    given = {"--checkpoint": ["c.pth"], "--input": ["in"], "--output": ["out"]}
    given[flags[0]] = flags[1:]
    with pytest.raises(UserError) as caught:
        predict(
            [word for flag, values in given.items() for word in (flag, *values)]
            + ["--device", "cpu"]
        )
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert not Path("out").exists()


@pytest.mark.parametrize("flags", [[], ["--overwrite"]])
def test_a_prediction_never_replaces_a_scan(tmp_path, model, flags):
    path = tmp_path / "in" / "a.nii.gz"
    scans(path.parent, path.name)
    before = path.read_bytes()
    place = ["--checkpoint", str(tmp_path / "c.pth"), "--input", str(path)]
    with pytest.raises(UserError, match=r"of a would replace the scan .*a\.nii\.gz"):
        predict([*place, "--output", str(tmp_path / "in"), "--device", "cpu", *flags])
    assert path.read_bytes() == before
