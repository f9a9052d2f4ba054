"""check_data.py on prepared data, by plan.json or in a published layout: what training would
refuse, or learn wrongly.
"""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers import ACDC, KITS19, LA, PANCREAS
from raw_scans import own_case, write_raw_dataset
from scripts import check, prepare

from commands import check as checking
from commands import prepare as preparing
from dataloaders.hdf5 import CONTENT
from dataloaders.phantom.write import write_phantom
from dataloaders.plan import read_plan
from datasets.checks.layout import info_of, recognise
from utils.errors import UserError

SPACING, SHAPE = (1.2, 0.9, 1.1), (26, 24, 20)


@contextmanager
def threads(_):
    with ThreadPoolExecutor(1) as pool:
        yield pool


@pytest.fixture(autouse=True)
def in_process(monkeypatch):
    monkeypatch.setattr(checking, "worker_pool", threads)
    monkeypatch.setattr(checking, "provenance", dict)  # asks git, each time


@pytest.fixture(scope="module")
def _outs(tmp_path_factory):
    """One data set of a, b (train), c (val), u (unlabelled), t (test), prepared as volumes and as
    slices.
    """
    place = tmp_path_factory.mktemp("own")
    raw = write_raw_dataset(place / "raw", {}, values=(1, 5), numTraining=3)
    for seed, (folder, name) in enumerate(
        [
            ("imagesTr", "a"),
            ("imagesTr", "b"),
            ("imagesTr", "c"),
            ("imagesUn", "u"),
            ("imagesTs", "t"),
        ]
    ):
        own_case(raw, folder, name, (1, 5), SPACING, SHAPE, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preparing, "worker_pool", threads)
        for dims in (2, 3):
            assert (
                prepare(
                    [
                        "--dataset",
                        "own",
                        "--source",
                        str(raw),
                        "--root_path",
                        str(place / str(dims)),
                        "--dims",
                        str(dims),
                    ]
                )
                == 0
            )
    return place


@pytest.fixture
def out(_outs, tmp_path):
    return Path(shutil.copytree(_outs / "3", tmp_path / "out"))


@pytest.fixture
def sliced(_outs, tmp_path):
    return Path(shutil.copytree(_outs / "2", tmp_path / "sliced"))


def forget_content(root: Path) -> None:
    """Remove the record of what was written, which also tells of each change that a test makes."""
    for path in root.rglob("*.h5"):
        with suppress(OSError), h5py.File(path, "a") as file:
            file.attrs.pop(CONTENT, None)


def looked(root: Path, *flags) -> tuple[int, dict]:
    forget_content(root)
    status = check(["--root_path", str(root), *map(str, flags)])
    assert not list(root.rglob(".*")), "something half-written"
    return status, json.loads((root / "check.json").read_text(encoding="utf-8"))


def rewrite(root: Path, case: str = "a", **changes) -> None:
    """Change data sets of a file, None removes one; a function is given the old one."""
    with h5py.File(root / "data" / f"{case}.h5", "a") as file:
        for key, value in changes.items():
            old = file[key][()]
            del file[key]
            if value is not None:
                file[key] = value(old) if callable(value) else value


def tell(root: Path, case: str = "a", **attributes) -> None:
    with h5py.File(root / "data" / f"{case}.h5", "a") as file:
        file.attrs.update(attributes)


def line(root: Path, name: str, text: str) -> None:
    with open(root / name, "a") as file:
        file.write(f"{text}\n")


def with_value(value: float):
    return lambda root: rewrite(
        root, image=lambda old: np.where(np.arange(old.size).reshape(old.shape) == 7, value, old)
    )


def flipped(root: Path) -> None:
    """The label turned round, on an image of even organs among others."""
    with h5py.File(root / "data" / "a.h5") as file:
        label, shape = file["label"][()], file["image"].shape
    image = np.random.default_rng(0).normal(0, np.where(label, 0.1, 1), shape)
    rewrite(root, image=image, label=label[:, ::-1])


ERRORS = {
    "not a number": (with_value(np.nan), "data/a.h5: the image holds NaN or infinite values"),
    "infinite": (with_value(np.inf), "data/a.h5: the image holds NaN or infinite values"),
    "another dimension": (
        lambda root: rewrite(root, image=lambda old: old[None]),
        "data/a.h5: the image has shape (1, 2, 26, 24, 20)",
    ),
    "a channel too few": (
        lambda root: rewrite(root, image=lambda old: old[:1]),
        "data/a.h5: the image has shape (1, 26, 24, 20)",
    ),
    "constant": (
        lambda root: rewrite(root, image=lambda old: np.stack([old[0], np.zeros_like(old[1])])),
        "channel 1 is constant (every voxel is 0); prepare",
    ),
    "cut off": (
        lambda root: (root / "data" / "a.h5").write_bytes(
            (root / "data" / "a.h5").read_bytes()[:900]
        ),
        "data/a.h5: not a readable HDF5 file",
    ),
    "no image": (
        lambda root: rewrite(root, image=None),
        "data/a.h5: no data set of numbers 'image' in it",
    ),
    "no label": (
        lambda root: rewrite(root, label=None),
        "data/a.h5: no data set of numbers 'label' in it",
    ),
    "fractional label": (
        lambda root: rewrite(root, label=lambda old: old / 2),
        "data/a.h5: the label holds fractions",
    ),
    "label value": (
        lambda root: rewrite(root, label=lambda old: old + 1),
        "data/a.h5: label values 1..3, expected 0..2",
    ),
    "label of another shape": (
        lambda root: rewrite(root, label=lambda old: old[1:]),
        "and label (25, 24, 20) differ in shape",
    ),
    "no spacing": (
        lambda root: tell(root, spacing_mm=(1.0, 0.0, 1.0)),
        "data/a.h5: spacing_mm is [1. 0. 1.], expected positive",
    ),
    "singular affine": (
        lambda root: tell(root, affine=np.diag((1.0, 0, 1, 1))),
        "data/a.h5: its affine is singular",
    ),
    "no affine": (
        lambda root: tell(root, affine=np.eye(3)),
        "data/a.h5: the attribute affine is not 4x4 finite numbers",
    ),
    "missing": (
        lambda root: (root / "data" / "a.h5").unlink(),
        "data/a.h5: no such file, though a case list names it (train)",
    ),
    "trained and tested": (
        lambda root: line(root, "test.list", "a"),
        "case a is listed for train and for test; remove it from one",
    ),
    "listed twice": (
        lambda root: line(root, "val.list", "c"),
        "c is listed twice for val; remove one line",
    ),
    "the same image twice": (
        lambda root: rewrite(root, "u", image=h5py.File(root / "data" / "a.h5")["image"][()]),
        "data/u.h5: the same image as ",
    ),
}
WARNINGS = {
    "identity affine": (
        lambda root: tell(root, affine=np.diag((1.0, 1, 1, 1))),
        "data/a.h5: its affine is the identity",
    ),
    "affine": (
        lambda root: tell(root, spacing_mm=(1.2, 0.9, 1.5)),
        "data/a.h5: its affine has voxels of 1.2 x 0.9 x 1.1 mm, spacing_mm is 1.2 x 0.9 x 1.5",
    ),
    "empty label": (
        lambda root: rewrite(root, label=lambda old: 0 * old),
        "data/a.h5: the label is empty",
    ),
    "other settings": (
        lambda root: tell(root, preparation='{"dataset": "own"}'),
        "1 of 5 cases were prepared with settings different from those in plan.json: a; prepare all",
    ),
    "a class of no case": (
        lambda root: [rewrite(root, case, label=lambda old: old % 2) for case in "ab"] and None,
        "class 2 (organ 5) is in none of the 2 training labels",
    ),
    "flipped label": (
        flipped,
        (
            "data/a.h5: fits better flipped along y: inside it the image's spread is 0.098 instead "
            "of 0.59"
        ),
    ),
}


def test_own_data_as_prepared_pass_without_a_word(out, capsys):
    status, content = looked(out)
    assert (
        status == 0
        and content["errors"] == content["warnings"] == []
        and content["layout"] == "prepared"
    )
    cases = {case["name"]: case for case in content["cases"]}
    assert {name: case["split"] for name, case in cases.items()} == {
        "a": "train",
        "b": "train",
        "c": "val",
        "u": "unlabelled",
        "t": "test",
    }
    assert (
        cases["a"]["axes"] == "RAS"
        and np.allclose(cases["a"]["spacing_mm"], SPACING)
        and cases["u"]["voxels"] is None
    )
    assert (
        len(cases["a"]["images"]) == 1
        and "5 cases, 0 errors, 0 warnings" in capsys.readouterr().out
    )


@pytest.mark.parametrize("kind", ERRORS)
def test_a_fault_is_one_line_and_status_2(out, capsys, kind):
    damage, says = ERRORS[kind]
    damage(out)
    status, content = looked(out)
    assert status == 2
    (said,) = [said for said in capsys.readouterr().err.splitlines() if said.startswith("error: ")]
    assert (
        content["errors"] == [said.removeprefix("error: ")]
        and says in said
        and str(out) in said
        and len(said) < 500
    ), said


@pytest.mark.parametrize("kind", WARNINGS)
def test_what_is_strange_is_a_warning_and_status_0(out, kind):
    damage, says = WARNINGS[kind]
    damage(out)
    status, content = looked(out)
    assert (
        status == 0
        and not content["errors"]
        and [said for said in content["warnings"] if says in said]
    ), content["warnings"]
    assert len(content["warnings"]) == 1


def test_labels_of_unlabelled_cases_are_never_opened(out):
    with h5py.File(out / "data" / "u.h5", "a") as file:
        file["label"] = np.full((2, 2), 99)
    assert looked(out)[0] == 0


def test_a_file_that_changed_since_it_was_written_is_an_error(out):
    assert check(["--root_path", str(out)]) == 0
    rewrite(out, image=lambda old: old + 1)
    assert check(["--root_path", str(out)]) == 2
    errors = json.loads((out / "check.json").read_text())["errors"]
    assert len(errors) == 1 and "data/a.h5: its content has changed since" in errors[0]


def test_slices_are_looked_at_as_the_cases_they_are_of(sliced):
    status, content = looked(sliced, "--pictures")
    cases = {case["name"]: case for case in content["cases"]}
    assert status == 0 and content["warnings"] == [] and set(cases) == set("abcut")
    assert (
        cases["a"]["shape"] == [20, 24, 26]
        and len(cases["a"]["spacing_mm"]) == 2
        and cases["t"]["axes"] == "SAR"
    )
    assert len(list((sliced / "check_pictures").iterdir())) == 5
    (sliced / "data" / "slices" / "a_slice_7.h5").unlink()
    line(sliced, "val.list", "a")
    rewrite(sliced, "t", image=h5py.File(sliced / "data" / "u.h5")["image"][()])
    status, content = looked(sliced)
    found = content["errors"]
    assert status == 2 and len(found) == 3
    assert (
        "a_slice_7.h5: no such file" in found[0]
        and "case a is listed for train and for val" in found[1]
    )
    assert (
        "u_slice_1.h5: the same image as " in found[2] and "t.h5 (unlabelled and test)" in found[2]
    )  # its volume, slice by slice


def test_a_plan_tells_how_its_files_are_read(out, sliced):
    assert recognise(out, "").classes == {1: "organ 1", 2: "organ 5"}
    (out / "plan.json").write_text("{")
    with pytest.raises(UserError, match=r"plan.json: not a plan"):
        check(["--root_path", str(out)])
    info = info_of(read_plan(sliced))
    assert (
        info.slice_file.format("a_slice_1") == "data/slices/a_slice_1.h5"
        and info.axes == "zyx"
        and info.channels == 2
    )


def phantom(root: Path, info, **sizes) -> Path:
    write_phantom(info, root, **sizes)
    return root


def test_published_layouts_are_recognised_by_their_files(tmp_path):
    for info, sizes, classes in (
        (ACDC, {"train": 2, "val": 1, "test": 1, "size": (48,)}, 3),
        (LA, {"train": 2, "test": 1, "size": (32, 32, 32)}, 1),
        (PANCREAS, {"train": 3, "test": 1, "size": (32, 32, 32), "labelled": 1}, 1),
    ):
        root = phantom(tmp_path / info.name, info, **sizes)
        status, content = looked(root)
        assert status == 0 and content["errors"] == [] and content["dataset"] == info.name, content[
            "errors"
        ]
        assert {case["split"] for case in content["cases"]} >= {"train", "test"} and len(
            recognise(root, "").classes
        ) == classes


def test_a_page_may_be_named(tmp_path):
    root = phantom(tmp_path / "kits", KITS19, train=2, test=1, size=(32, 48, 48))
    assert looked(root, "--dataset", "KiTS19")[1]["dataset"] == "KiTS19"
    with pytest.raises(UserError, match="--dataset nobody: unknown"):
        check(["--root_path", str(root), "--dataset", "nobody"])


def test_files_of_the_other_pancreas_preparation_are_told(tmp_path):
    root = phantom(tmp_path / "pancreas", PANCREAS, train=3, test=1, size=(32, 32, 32), labelled=1)
    name = (root / "train_lab.txt").read_text(encoding="utf-8").split()[0].removesuffix(".h5")
    rewrite(root, name, image=lambda old: (old - old.mean()) / old.std())
    shutil.copy(root / "data" / f"{name}.h5", root / "data" / "image0077_norm.h5")
    status, content = looked(root)
    first, second = content["warnings"]
    assert (
        status == 0
        and "image0077_norm.h5: one of 1 files of another preparation, which no list names" in first
    )
    assert (
        "as MC-Net prepared it; the Pancreas protocol trains on CoraNet's files, 0 to 1: "
        "prepare_data.py --variant coranet" in second
    )
