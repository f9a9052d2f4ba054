"""The phantoms: layouts as the real data, the same bytes for the same seed, and organs that hold
together.
"""

from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
from helpers import ACDC, KITS19, LA, LITS, PANCREAS
from scipy.ndimage import binary_dilation
from scipy.ndimage import label as components
from scripts import check
from started import run_script

from dataloaders.phantom.heart import (
    DIASTOLE,
    LEFT,
    MYOCARDIUM,
    RIGHT,
    SYSTOLE,
    draw_patient,
    render,
)
from dataloaders.phantom.organ_volumes import write_volume_phantom
from dataloaders.phantom.organs import RECIPES, draw_case
from dataloaders.phantom.raw_scans import write_raw_phantom
from dataloaders.phantom.write import write_acdc_phantom, write_phantom
from datasets.prepare.nnunet import read_dataset
from utils.errors import UserError

SCRIPT = Path(__file__).resolve().parents[1] / "code" / "make_phantom.py"
TINY = {"train": 2, "val": 1, "test": 1, "size": 64, "slices": (5, 6)}
INFO = {info.name: info for info in (ACDC, LA, PANCREAS, KITS19, LITS)}
SMALL = {"train": 2, "test": 1, "size": (32, 32, 32)}
ROOTS = {"LA": "la_root", "Pancreas": "pancreas_root", "KiTS19": "kits_root", "LiTS": "lits_root"}
VOLUMES = pytest.mark.parametrize("info", [LA, PANCREAS, KITS19, LITS], ids=lambda info: info.name)


@pytest.fixture(scope="module")
def phantom(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("phantom") / "ACDC"
    write_acdc_phantom(root, **TINY)
    return root


@pytest.fixture(scope="module")
def hearts() -> list[tuple[np.ndarray, np.ndarray]]:
    """Labels (diastole, systole) of eight patients."""
    patients = [draw_patient(np.random.default_rng([7, i]), 64) for i in range(8)]
    return [(render(p, DIASTOLE)[1], render(p, SYSTOLE)[1]) for p in patients]


def read(path: Path) -> tuple[np.ndarray, np.ndarray, dict]:
    with h5py.File(path) as file:
        return file["image"][:], file["label"][:], dict(file.attrs)


def around(mask: np.ndarray) -> np.ndarray:
    """The in-plane 4-neighbours of a (slices, H, W) mask that are outside of it."""
    cross = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], bool)[None]
    return binary_dilation(mask, cross) & ~mask


def test_lists_name_exactly_the_files(phantom):
    lines = {
        part: (phantom / f"{part}.list").read_text(encoding="utf-8").splitlines()
        for part in ("train", "val", "test", "train_slices")
    }
    assert lines["train"] == [f"patient00{i}_frame0{k}" for i in (1, 2) for k in (1, 2)]
    assert lines["val"] == ["patient003_frame01", "patient003_frame02"]
    assert lines["test"] == ["patient004_frame01", "patient004_frame02"]
    assert {p.stem for p in (phantom / "data" / "slices").iterdir()} == set(lines["train_slices"])
    volumes = {*lines["train"], *lines["val"], *lines["test"]}
    assert {p.stem for p in (phantom / "data").glob("*.h5")} == volumes
    owners = [line.split("_slice_")[0] for line in lines["train_slices"]]
    assert list(dict.fromkeys(owners)) == lines["train"] and owners == sorted(owners)
    numbers = [
        int(line.rsplit("_", 1)[1])
        for line in lines["train_slices"]
        if line.startswith("patient001_frame01")
    ]
    assert sorted(numbers) == list(range(1, len(numbers) + 1))


def test_slices_and_volumes_hold_what_the_layout_says(phantom):
    for path in (phantom / "data").rglob("*.h5"):
        image, label, attributes = read(path)
        assert image.dtype == np.float32 and label.dtype == np.uint8
        assert image.shape == label.shape and image.ndim == (2 if "slice" in path.stem else 3)
        assert image.min() >= 0 and image.max() <= 1 and set(np.unique(label)) <= {0, 1, 2, 3}
        assert all(57 <= side <= 71 for side in image.shape[-2:])
        if image.ndim == 3:
            assert (image.min(), image.max()) == (0, 1)
            assert set(np.unique(label)) == {0, 1, 2, 3}
            spacing = attributes["spacing_mm"]
            assert (
                spacing.shape == (3,)
                and spacing.dtype == np.float64
                and spacing[0] > spacing[1] == spacing[2]
            )


def test_same_seed_same_data_and_more_patients_change_nothing(phantom, tmp_path):
    write_acdc_phantom(tmp_path / "more", **{**TINY, "train": 3})
    for path in (phantom / "data" / "slices").iterdir():
        again = read(tmp_path / "more" / "data" / "slices" / path.name)
        for first, second in zip(read(path)[:2], again[:2], strict=True):
            np.testing.assert_array_equal(first, second)
    other = draw_patient(np.random.default_rng([8, 1]), 64, (5, 6))
    assert other.radius != draw_patient(np.random.default_rng([1337, 1]), 64, (5, 6)).radius


def test_cavity_is_enclosed_by_myocardium(hearts):
    for label in (label for pair in hearts for label in pair):
        assert set(np.unique(label[around(label == LEFT)])) == {MYOCARDIUM}


def test_right_ventricle_is_one_piece_on_the_myocardium_and_smallest_at_its_apical_end(hearts):
    for label in (label for pair in hearts for label in pair):
        right = np.nonzero((label == RIGHT).any((1, 2)))[0]
        assert (
            len(right) and (around(label == RIGHT) & (label == MYOCARDIUM)).any((1, 2))[right].all()
        )
        assert all(components(label[k] == RIGHT)[1] == 1 for k in right)
        areas = (label == RIGHT).sum((1, 2))[right]
        assert (
            areas[-1] == areas.min()
            and right[-1] <= np.nonzero((label == MYOCARDIUM).any((1, 2)))[0][-1]
        )


def test_heart_beats_and_ends_within_the_stack(hearts):
    for diastole, systole in hearts:
        assert (systole == LEFT).sum() < (diastole == LEFT).sum()
    labels = [label for pair in hearts for label in pair]
    empty = sum((label == 0).all((1, 2)).sum() for label in labels)
    assert 0 < empty < sum(map(len, labels)) / 2


def test_rerun_is_fine_but_other_data_are_left_alone(phantom, tmp_path):
    before = (phantom / "train_slices.list").read_text(encoding="utf-8")
    write_acdc_phantom(phantom, **TINY)
    assert (phantom / "train_slices.list").read_text(encoding="utf-8") == before
    with pytest.raises(UserError, match=r"phantom\.json"):
        write_acdc_phantom(phantom, **TINY, seed=1)
    (tmp_path / "train_slices.list").write_text("patient001_frame01_slice_1\n")
    with pytest.raises(UserError, match="data that is not a phantom"):
        write_acdc_phantom(tmp_path, **TINY)
    assert [p.name for p in tmp_path.iterdir()] == ["train_slices.list"]


@pytest.mark.parametrize(
    "flags",
    [
        ("--train", "0"),
        ("--size", "7"),
        ("--seed", "-1"),
        ("--dataset", "Heart"),
        ("--colour", "red"),
        ("--val", "two"),
    ],
)
def test_bad_flags_exit_2_with_one_line(tmp_path, flags):
    done = run_script(SCRIPT, "--root", tmp_path / "new", *flags)
    assert done.returncode == 2 and done.stdout == ""
    assert (
        done.stderr.startswith("error: ")
        and done.stderr.count("\n") == 1
        and flags[0].strip("-") in done.stderr
    )
    assert not (tmp_path / "new").exists()


def test_unwritable_root_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--root"):
        write_acdc_phantom(tmp_path / "file", **TINY)


def test_script_writes_and_names_the_next_command(tmp_path):
    flags = ["--root", tmp_path, "--train", "1", "--val", "1", "--test", "1", "--size", "48"]
    done = run_script(SCRIPT, *flags)
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout.count("\n") == 1
        and f"python code/ACDC_labelnum3_train.py --root_path {tmp_path}" in done.stdout
    )


@pytest.fixture
def root(info, request) -> Path:
    """The small phantom of the data set `facts`."""
    return request.getfixturevalue(ROOTS[info.name])


def cases(info, root: Path) -> list[tuple[np.ndarray, np.ndarray, dict]]:
    return [read(path) for path in sorted(root.rglob("*.h5"))]


@VOLUMES
def test_volumes_hold_what_the_layout_says(info, root):
    for image, label, attributes in cases(info, root):
        assert image.dtype == np.float32 and label.dtype == np.uint8 and image.shape == label.shape
        assert set(np.unique(label)) <= set(range(info.label_values)) and np.isfinite(image).all()
        spacing = attributes["spacing_mm"]
        assert spacing.shape == (3,) and spacing.dtype == np.float64 and (spacing > 0).all()
        if info is LA:
            assert abs(image.mean()) < 1e-4 and abs(image.std() - 1) < 1e-4
            assert image.shape[2] == 24 and all(37 <= side <= 43 for side in image.shape[:2])
        else:
            assert (image.min(), image.max()) == (0, 1)
            assert image.shape == ((40, 40, 40) if info is PANCREAS else (24, 48, 48))
            # thick slices come first in the files of KiTS19 and LiTS
            assert info is PANCREAS or spacing[0] > max(spacing[1:])
    lesions = [(label == 2).any() for _, label, _ in cases(info, root)]
    assert info.label_values == 2 or 0 < sum(lesions) < len(lesions)


def test_volume_lists_name_exactly_the_files(la_root, pancreas_root, kits_root, lits_root):
    expected = {
        la_root: {
            "train.list": [f"phantom00{i}" for i in range(1, 7)],
            "test.list": ["phantom007", "phantom008"],
        },
        pancreas_root: {
            "train_lab.txt": ["0001", "0002", "0003", "0004"],
            "train_unlab.txt": ["0005", "0006", "0007", "0008"],
            "test.txt": ["0009", "0010"],
        },
        kits_root: {
            "train.txt": [f"case_0000{i}" for i in range(1, 7)],
            "test.txt": ["case_00007", "case_00008"],
        },
        lits_root: {
            "train.txt": [f"volume-{i}" for i in range(1, 7)],
            "test.txt": ["volume-7", "volume-8"],
        },
    }
    for info, (root, lists) in zip((LA, PANCREAS, KITS19, LITS), expected.items(), strict=True):
        found = {
            path.name: path.read_text(encoding="utf-8").splitlines()
            for path in root.iterdir()
            if path.suffix in (".list", ".txt")
        }
        assert found == lists
        assert set(root.rglob("*.h5")) == {
            info.path(root, name) for names in lists.values() for name in names
        }
        assert {info.train_list, info.test_list} <= set(lists)


@VOLUMES
def test_organ_is_one_piece_of_plausible_size_that_grey_values_do_not_tell(info, root):
    least, most = {
        "LA": (0.04, 0.1),
        "Pancreas": (0.01, 0.04),
        "KiTS19": (0.01, 0.03),
        "LiTS": (0.05, 0.13),
    }[info.name]
    for image, label, _ in cases(info, root):
        organ = label > 0
        assert least < organ.mean() < most
        pieces, count = components(organ)
        assert count == (2 if info is KITS19 else 1)
        assert info is not KITS19 or np.bincount(pieces.ravel())[1:].min() > 0.25 * organ.sum()
        above = [image > t for t in np.quantile(image, np.linspace(0.02, 0.99, 40))]
        assert (
            max(2 * (bright & organ).sum() / (bright.sum() + organ.sum()) for bright in above)
            < 0.75
        )
        # at least a slice is free on every side
        assert not any(organ.take(k, axis).any() for axis in range(3) for k in (0, -1))


@VOLUMES
def test_organ_crosses_the_annotated_planes_and_changes_little_from_slice_to_slice(info, root):
    for _, label, _ in cases(info, root):
        organ = info.task_label(label)
        for axis, published in info.planes:
            along = np.moveaxis(organ, axis, 0).astype(bool)
            middle = len(along) // 2
            assert along[middle].any() and (
                published is None or published >= len(along) or along[published].any()
            )
            overlap = (
                2
                * (along[1:] & along[:-1]).sum((1, 2))
                / np.maximum(along[1:].sum((1, 2)) + along[:-1].sum((1, 2)), 1)
            )
            assert (overlap[middle - 2 : middle + 2] > 0.6).all()


def test_published_slice_of_the_atrium_is_on_it_at_the_default_size():
    for number in range(3):
        label = draw_case(RECIPES["LA"], np.random.default_rng([5, number]), RECIPES["LA"].size)[1]
        assert label[:, :, 43].any()


@VOLUMES
def test_same_seed_same_volumes_and_more_cases_change_nothing(info, tmp_path):
    write_volume_phantom(info, tmp_path / "one", **SMALL)
    write_volume_phantom(info, tmp_path / "more", **{**SMALL, "test": 2})
    write_volume_phantom(info, tmp_path / "other", **SMALL, seed=1)
    paths = list((tmp_path / "one").rglob("*.h5"))
    assert len(paths) == 3
    for path in paths:
        first, again, other = (
            read(tmp_path / name / path.relative_to(tmp_path / "one"))
            for name in ("one", "more", "other")
        )
        for a, b in zip(first[:2], again[:2], strict=True):
            np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(first[2]["spacing_mm"], again[2]["spacing_mm"])
        assert first[0].shape != other[0].shape or (first[0] != other[0]).any()
    stamps = {
        path: path.read_text(encoding="utf-8")
        for path in (tmp_path / "one").iterdir()
        if path.is_file() and path.suffix != ".h5"
    }
    write_volume_phantom(info, tmp_path / "one", **SMALL)
    assert stamps == {path: path.read_text(encoding="utf-8") for path in stamps}
    with pytest.raises(UserError, match=r"phantom\.json"):
        write_volume_phantom(info, tmp_path / "one", **SMALL, seed=2)


@VOLUMES
def test_volumes_of_others_are_left_alone(info, tmp_path):
    theirs = info.path(tmp_path, "theirs")
    theirs.parent.mkdir(parents=True, exist_ok=True)
    theirs.write_text("")
    with pytest.raises(UserError, match="data that is not a phantom"):
        write_volume_phantom(info, tmp_path, **SMALL)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [theirs]
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--root"):
        write_volume_phantom(info, tmp_path / "file", **SMALL)


@pytest.mark.parametrize(
    ("dataset", "options", "says"),
    [
        ("ACDC", {"labelled": 3}, "--labelled"),
        ("ACDC", {"size": (64, 64, 32)}, "--size takes one number"),
        ("LA", {"val": 2}, "--val"),
        ("LA", {"labelled": 2}, "--labelled"),
        ("LA", {"size": (64,)}, "--size takes three numbers"),
        ("LA", {"size": (40, 40, 15)}, r"--size \(z\) must be from 16"),
        ("KiTS19", {"size": (15, 40, 40)}, r"--size \(z\) must be from 16"),
        ("LiTS", {"size": (24, 31, 40)}, r"--size \(y\) must be from 32"),
        ("LiTS", {"seed": -1}, "--seed"),
        ("Pancreas", {"labelled": 20}, "--labelled must be from 1 to 19"),
        ("Pancreas", {"train": 1}, "--train must be from 2"),
    ],
)
def test_flags_that_do_not_fit_the_data_set_are_refused(tmp_path, dataset, options, says):
    with pytest.raises(UserError, match=says):
        write_phantom(INFO[dataset], tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("dataset", "command"),
    [
        ("LA", "python code/LA_labelnum4_train.py --root_path {}"),
        ("Pancreas", "python pancreas/pancreas_labelnum20_train.py --root_path {}"),
        ("KiTS19", "python code/CoGRNet_register.py --dataset KiTS19 --root_path {}"),
        ("LiTS", "python code/CoGRNet_register.py --dataset LiTS --root_path {}"),
    ],
)
def test_the_next_command_is_named(tmp_path, dataset, command):
    small = [
        str(word)
        for key, value in SMALL.items()
        for word in (f"--{key}", *(value if isinstance(value, tuple) else (value,)))
    ]
    done = run_script(SCRIPT, "--dataset", dataset, "--root", tmp_path, *small)
    said = done.stdout
    assert (
        said.startswith("wrote 2 training and 1 test volumes") and command.format(tmp_path) in said
    )


def test_script_writes_volumes(tmp_path):
    flags = [
        "--dataset",
        "Pancreas",
        "--root",
        tmp_path,
        "--train",
        "3",
        "--labelled",
        "2",
        "--test",
        "1",
        "--size",
        "32",
        "32",
        "16",
    ]
    done = run_script(SCRIPT, *flags)
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout.count("\n") == 1
        and (tmp_path / "train_lab.txt").read_text(encoding="utf-8") == "0001\n0002\n"
    )
    assert read(tmp_path / "data" / "0001.h5")[0].shape == (32, 32, 16)


# --- raw scans


@pytest.mark.parametrize(
    "info, size, frames",
    [pytest.param(ACDC, (48,), 2, marks=pytest.mark.long), (LA, (32, 24, 16), 1)],
    ids=["hearts", "atria"],
)
def test_raw_scans_are_those_of_the_public_layout_in_nnunets(tmp_path, info, size, frames):
    """Patients 1 and 2 are labelled, 3 and 4 are not, 5 validates, 6 is the test; found good by
    nnU-Net's rules and ours.
    """
    counts = {"train": 4, "val": 1, "test": 1, "labelled": 2, "size": size}
    write_raw_phantom(info, tmp_path / "raw", **counts)
    found = {
        folder.name: len(list(folder.iterdir()))
        for folder in (tmp_path / "raw").iterdir()
        if folder.is_dir()
    }
    drawn = {
        "imagesTr": 3 * frames,
        "labelsTr": 3 * frames,
        "imagesUn": 2 * frames,
        "imagesTs": frames,
        "labelsTs": frames,
    }
    assert found == drawn
    dataset = read_dataset(tmp_path / "raw")
    assert [
        len([case for case in dataset.cases if case.part == part]) for part in ("train", "val")
    ] == [2 * frames, frames]
    assert check(["--root_path", str(tmp_path / "raw")]) == 0
    name = next(case.name for case in dataset.cases if case.part == "test")
    scan, label = (
        nibabel.load(tmp_path / "raw" / file)
        for file in (f"imagesTs/{name}_0000.nii.gz", f"labelsTs/{name}.nii.gz")
    )
    assert nibabel.aff2axcodes(scan.affine) == ("L", "P", "S") and np.allclose(
        scan.affine, label.affine
    )
    if info is ACDC:
        patient = draw_patient(np.random.default_rng([1337, 6]), *size)
        image, truth = render(patient, DIASTOLE)
        assert np.array_equal(np.asarray(label.dataobj), truth.T) and np.allclose(
            scan.header.get_zooms(), patient.spacing[::-1]
        )
        assert np.abs(np.asarray(scan.dataobj) - 1000 * image.T).max() <= 0.5 + 1e-3
    before = {path: path.read_bytes() for path in (tmp_path / "raw").rglob("*.nii.gz")}
    write_raw_phantom(info, tmp_path / "raw", **counts)
    assert all(path.read_bytes() == content for path, content in before.items())


@pytest.mark.parametrize(
    "info, flags, message",
    [
        (LITS, {}, "--raw: raw phantoms are MR, but that of LiTS is CT"),
        (ACDC, {"labelled": 5}, "--labelled must be from 1 to 4, not 5"),
        (LA, {"size": (48,)}, "--size: LA takes 3 numbers, not 1"),
    ],
)
def test_raw_scans_that_cannot_be(tmp_path, info, flags, message):
    with pytest.raises(UserError, match=message):
        write_raw_phantom(
            info, tmp_path / "raw", **{"train": 4, "val": 1, "test": 1, "labelled": 2, **flags}
        )
    assert not (tmp_path / "raw").exists()
