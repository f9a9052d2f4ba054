"""Real data turned back into raw scans and prepared again: the same bits. ACDC_ROOT and LA_ROOT
name the folders with lists and data, RAW_ROOT one with a DICOM series and its label. REAL_CASES:
how many cases of each list (default 2; all: every one).
"""

import filecmp
import json
import os
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import threshold
from scripts import check, predict, prepare

from dataloaders.splits import listed_path
from datasets.prepare.flips import spreads
from datasets.registry import all_datasets
from scans.geometry import lay_onto
from scans.reading import read_scan
from tests.raw_again import write_acdc, write_la

ACDC, LA = (all_datasets()[name].info for name in ("ACDC", "LA"))

pytestmark = pytest.mark.real_data


def chosen(source: Path, lists: list[str], here) -> list[str]:
    """The first cases of each list whose files are at hand."""
    count = os.environ.get("REAL_CASES", "2")
    found = []
    for name in lists:
        cases = [case for case in (source / name).read_text(encoding="utf-8").split() if here(case)]
        found += cases if count == "all" else cases[: int(count)]
    return found


def assert_same(source: Path, out: Path, paths: list[Path]) -> None:
    for path in paths:
        with h5py.File(path) as old, h5py.File(out / path.relative_to(source)) as new:
            for key in ("image", "label"):
                assert old[key].dtype == new[key].dtype and old[key].shape == new[key].shape, path
                assert old[key][()].tobytes() == new[key][()].tobytes(), f"{path}: {key} differs"


def same_lists(source: Path, out: Path, cases: list[str]) -> None:
    """Byte for byte where every case is there, else without the others."""
    for path in source.glob("*.list"):
        if os.environ.get("REAL_CASES") == "all":
            assert filecmp.cmp(path, out / path.name, shallow=False), path.name
        kept = [
            line
            for line in path.read_text(encoding="utf-8").split()
            if line.split("_slice_")[0] in cases
        ]
        assert (out / path.name).read_text(encoding="utf-8").split() == kept


def test_acdc_is_the_public_preparation_bit_for_bit(tmp_path):
    source = Path(os.environ["ACDC_ROOT"])
    slices = source / "data" / "slices"
    there = {path.name.split("_slice_")[0] for path in slices.iterdir()} | {
        path.stem for path in (source / "data").glob("*.h5")
    }
    cases = chosen(source, ["train.list", "val.list", "test.list"], lambda case: case in there)
    cases = sorted({f"{case.split('_')[0]}_frame0{frame}" for case in cases for frame in (1, 2)})
    for case in cases:
        write_acdc(source, case, tmp_path / "raw")
    assert (
        prepare(
            [
                "--dataset",
                "ACDC",
                "--source",
                str(tmp_path / "raw"),
                "--root_path",
                str(tmp_path / "out"),
            ]
        )
        == 0
    )
    paths = [
        path
        for case in cases
        for path in [*slices.glob(f"{case}_slice_*.h5"), *(source / "data").glob(f"{case}.h5")]
    ]
    assert len(paths) >= len(cases)
    assert_same(source, tmp_path / "out", paths)
    same_lists(source, tmp_path / "out", cases)
    with h5py.File(tmp_path / "out" / ACDC.file.format(cases[0])) as file:
        assert np.allclose(file.attrs["spacing_mm"], (10, 1.5625, 1.5625))


def test_la_is_the_public_preparation_bit_for_bit(tmp_path):
    source = Path(os.environ["LA_ROOT"])
    cases = chosen(
        source, ["train.list", "test.list"], lambda case: LA.path(source, case).is_file()
    )
    for case in cases:
        write_la(source, case, tmp_path / "raw")
    assert (
        prepare(
            [
                "--dataset",
                "LA",
                "--source",
                str(tmp_path / "raw"),
                "--root_path",
                str(tmp_path / "out"),
            ]
        )
        == 0
    )
    assert_same(source, tmp_path / "out", [LA.path(source, case) for case in cases])
    same_lists(source, tmp_path / "out", cases)


def raw_root() -> Path:
    if "RAW_ROOT" not in os.environ:
        pytest.skip("RAW_ROOT names no folder")
    return Path(os.environ["RAW_ROOT"])


@pytest.fixture
def liver(tmp_path):
    """Give `liver(flipped)` -> a folder: a real DICOM series, and its label, as it is or turned
    round in y.
    """
    folder = raw_root() / "totalsegmentator"

    def make(flipped: bool) -> Path:
        raw = tmp_path / "raw"
        (raw / "PANCREAS_0001" / "study").mkdir(parents=True)
        (raw / "PANCREAS_0001" / "study" / "series").symlink_to(
            folder / "example_ct_dicom", target_is_directory=True
        )
        stored = nibabel.load(folder / "example_seg_dicom.nii.gz")
        organ = (np.asarray(stored.dataobj) == 5).astype(
            np.uint8
        )  # the liver: a large organ, in which the spread says most
        nibabel.save(
            nibabel.Nifti1Image(organ[:, ::-1] if flipped else organ, stored.affine),
            raw / "label0001.nii.gz",
        )
        return raw

    return make


@pytest.mark.parametrize("flipped", [False, True])
def test_a_real_dicom_series_prepares_as_pancreas_under_its_label(liver, tmp_path, capsys, flipped):
    """The series reads L, P, S and its label is stored L, A, S; a label that was flipped fits
    better flipped back, and that is said.
    """
    raw = liver(flipped)
    scan, label = read_scan(raw / "PANCREAS_0001"), read_scan(raw / "label0001.nii.gz")
    assert scan.shape == (512, 512, 20) and np.allclose(
        scan.geometry.spacing, (0.9765625, 0.9765625, 2)
    )  # not the slice thickness, 3 mm
    laid, warning = lay_onto("label", label.array, label.geometry, scan.shape, scan.geometry)
    assert warning is None
    found = spreads(scan.array, laid)
    assert min(found, key=found.get) == (False, flipped, False)
    assert (
        round(found[False, flipped, False]) == 22 and round(found[False, not flipped, False]) == 375
    )
    assert (
        prepare(
            ["--dataset", "Pancreas", "--source", str(raw), "--root_path", str(tmp_path / "out")]
        )
        == 0
    )
    assert (
        "fits better flipped along y: inside it the image's spread is 22 instead of 375"
        in capsys.readouterr().out
    ) == flipped
    with h5py.File(tmp_path / "out" / "data" / "0001.h5") as file:
        image, truth = file["image"][()], file["label"][()]
    assert (
        image.dtype == np.float64
        and (image.min(), image.max()) == (0, 1)
        and min(image.shape) >= 96
    )
    if not flipped:
        assert 400 * image[truth > 0].std() < 30


@pytest.mark.parametrize("flipped", [False, True])
def test_a_real_dicom_series_and_its_label_are_found_good_and_flipped_ones_not(liver, flipped):
    raw = liver(flipped)
    about = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "liver": 1},
        "numTraining": 1,
        "file_ending": ".nii.gz",
    }
    case = {"scan": {"images": ["PANCREAS_0001"], "label": "label0001.nii.gz"}}
    (raw / "dataset.json").write_text(json.dumps({**about, "dataset": case}))
    assert check(["--root_path", str(raw)]) == 0
    found = json.loads((raw / "check.json").read_text(encoding="utf-8"))
    warnings = [line for line in found["warnings"] if "left for validation" not in line]
    assert found["errors"] == [] and len(warnings) == flipped
    assert (
        not flipped
        or "fits better flipped along y: inside it the image's spread is 22 instead of 375"
        in warnings[0]
    )


@pytest.mark.parametrize(
    "path, letters",
    [
        ("sct/t1w.nii.gz", "RAS"),
        ("sct/t2.nii.gz", "PSR"),
        ("sct/t2s.nii.gz", "LAS"),
        ("totalsegmentator/example_ct_sm.nii.gz", "RAS"),
        ("totalsegmentator/example_mr_sm.nii.gz", "LPS"),
        ("totalsegmentator/example_ct_dicom", "LPS"),
        ("pyradiomics/brain1_image.nrrd", None),
        ("pyradiomics/breast1_image.nrrd", None),
        ("kits19/case_00002/segmentation.nii.gz", "IPL"),
    ],
)
def test_real_headers_come_back_on_their_own_grid(tmp_path, monkeypatch, path, letters):
    """A network that copies a threshold of its input: the prediction is the thresholded scan, voxel
    by voxel. KiTS19's is a label, taken for a scan as its header is what matters.
    """
    source = raw_root() / path
    if not source.exists():
        pytest.skip(f"{path} is not available")
    threshold.register(monkeypatch)
    plan = threshold.plan()
    model = threshold.checkpoint(tmp_path / "c.pth", threshold.info_of(plan), (64, 64, 32), plan)
    source = tmp_path.joinpath("in", source.name) if source.is_dir() else source
    if source.parent == tmp_path / "in":
        source.parent.mkdir()
        source.symlink_to(raw_root() / path, target_is_directory=True)
    given = source.parent if source.is_dir() else source
    flags = ["--output", str(tmp_path / "out"), "--stride", "64", "64", "32", "--device", "cpu"]
    assert predict(["--checkpoint", str(model), "--input", str(given), *flags]) == 0
    scan = read_scan(source)
    written = next(
        path for path in (tmp_path / "out").iterdir() if path.name.endswith((".nii.gz", ".nrrd"))
    )
    found = read_scan(written)
    assert found.array.dtype == np.uint8 and found.array.any()
    assert np.array_equal(found.array, scan.array > scan.array.mean(dtype=np.float64))
    np.testing.assert_allclose(found.geometry.affine, scan.geometry.affine, atol=1e-4)
    if not source.is_dir() and source.name.endswith(".nii.gz"):
        before, after = nibabel.load(source).header, nibabel.load(written).header
        assert "".join(nibabel.aff2axcodes(nibabel.load(written).affine)) == letters
        for key in (
            "qform_code",
            "sform_code",
            "pixdim",
            "srow_x",
            "srow_y",
            "srow_z",
            "quatern_b",
            "quatern_c",
            "quatern_d",
        ):
            assert np.array_equal(before[key], after[key]), key


@pytest.mark.parametrize("name", ["ACDC", "LA"])
def test_real_data_are_found_good(tmp_path, name):
    """All cases at hand; where only some are, the lists name these."""
    info, source, root = (
        all_datasets()[name].info,
        Path(os.environ[f"{name}_ROOT"]),
        tmp_path / "data",
    )
    root.mkdir()
    for path in source.iterdir():
        if path.is_dir():
            (root / path.name).symlink_to(path)
    for split, file in {
        "train": info.train_list,
        "val": info.list_name("val"),
        "test": info.test_list,
    }.items():
        if (source / file).is_file():
            names = [
                case
                for case in info.read_list(source, file)
                if listed_path(source, info, split, case).is_file()
            ]
            (root / file).write_text("".join(f"{case}\n" for case in names), encoding="utf-8")
    assert check(["--root_path", str(root), "--dataset", name, "--output", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "check.json").read_text(encoding="utf-8"))
    assert (
        found["cases"] and found["dataset"] == name and found["errors"] == found["warnings"] == []
    )
