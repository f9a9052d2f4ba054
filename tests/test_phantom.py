"""The phantom: layout as the real ACDC, the same bytes for the same seed, and hearts that hold together."""

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.ndimage import binary_dilation
from scipy.ndimage import label as components

from dataloaders.phantom import write_acdc_phantom
from dataloaders.phantom_heart import DIASTOLE, LEFT, MYOCARDIUM, RIGHT, SYSTOLE, draw_patient, render
from utils.errors import UserError

SCRIPT = Path(__file__).resolve().parents[1] / "code" / "make_phantom.py"
TINY = {"train": 2, "val": 1, "test": 1, "size": 64, "slices": (5, 6)}


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
    lines = {part: (phantom / f"{part}.list").read_text().splitlines() for part in ("train", "val", "test", "train_slices")}
    assert lines["train"] == [f"patient00{i}_frame0{k}" for i in (1, 2) for k in (1, 2)]
    assert lines["val"] == ["patient003_frame01", "patient003_frame02"]
    assert lines["test"] == ["patient004_frame01", "patient004_frame02"]
    assert {p.stem for p in (phantom / "data" / "slices").iterdir()} == set(lines["train_slices"])
    assert {p.stem for p in (phantom / "data").glob("*.h5")} == {*lines["val"], *lines["test"]}
    owners = [line.split("_slice_")[0] for line in lines["train_slices"]]
    assert list(dict.fromkeys(owners)) == lines["train"] and owners == sorted(owners)
    numbers = [int(line.rsplit("_", 1)[1]) for line in lines["train_slices"] if line.startswith("patient001_frame01")]
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
            assert spacing.shape == (3,) and spacing.dtype == np.float64 and spacing[0] > spacing[1] == spacing[2]


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
        assert len(right) and (around(label == RIGHT) & (label == MYOCARDIUM)).any((1, 2))[right].all()
        assert all(components(label[k] == RIGHT)[1] == 1 for k in right)
        areas = (label == RIGHT).sum((1, 2))[right]
        assert areas[-1] == areas.min() and right[-1] <= np.nonzero((label == MYOCARDIUM).any((1, 2)))[0][-1]


def test_heart_beats_and_ends_within_the_stack(hearts):
    for diastole, systole in hearts:
        assert (systole == LEFT).sum() < (diastole == LEFT).sum()
    labels = [label for pair in hearts for label in pair]
    empty = sum((label == 0).all((1, 2)).sum() for label in labels)
    assert 0 < empty < sum(map(len, labels)) / 2


def test_rerun_is_fine_but_other_data_are_left_alone(phantom, tmp_path):
    before = (phantom / "train_slices.list").read_text()
    write_acdc_phantom(phantom, **TINY)
    assert (phantom / "train_slices.list").read_text() == before
    with pytest.raises(UserError, match=r"phantom\.json"):
        write_acdc_phantom(phantom, **TINY, seed=1)
    (tmp_path / "train_slices.list").write_text("patient001_frame01_slice_1\n")
    with pytest.raises(UserError, match="no phantom"):
        write_acdc_phantom(tmp_path, **TINY)
    assert [p.name for p in tmp_path.iterdir()] == ["train_slices.list"]


@pytest.mark.parametrize(
    "flags", [("--train", "0"), ("--size", "7"), ("--seed", "-1"), ("--dataset", "LA"), ("--colour", "red"), ("--val", "two")]
)
def test_bad_flags_exit_2_with_one_line(tmp_path, flags):
    done = subprocess.run([sys.executable, SCRIPT, "--root", tmp_path / "new", *flags], capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and flags[0].strip("-") in done.stderr
    assert not (tmp_path / "new").exists()


def test_unwritable_root_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--root"):
        write_acdc_phantom(tmp_path / "file", **TINY)


def test_script_writes_and_names_the_next_command(tmp_path):
    flags = ["--root", tmp_path, "--train", "1", "--val", "1", "--test", "1", "--size", "48"]
    done = subprocess.run([sys.executable, SCRIPT, *flags], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1 and f"python code/ACDC_labelnum3_train.py --root_path {tmp_path}" in done.stdout
