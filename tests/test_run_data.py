"""The data of a run are part of it: checkpoints know them again, and a case that leaks from one
list into another is reported.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path

import h5py
import helpers
import numpy as np
import pytest
import torch
from helpers import ACDC, LA
from scripts import evaluate

from dataloaders import digest
from dataloaders.augment import Augmentation
from dataloaders.cases import read_cases
from dataloaders.digest import difference, digest_of, seen_in_training, survey
from dataloaders.slices import Slices
from dataloaders.splits import list_faults
from dataloaders.volumes import VolumePatches
from datasets.acdc import DATASET
from training.checkpoint import load
from utils.errors import UserError

pytestmark = pytest.mark.usefixtures("narrow")

NUMBERS = {
    "labelnum": 1, "patch_size": (32, 32), "egm": "none", "batch_size": 4, "labeled_bs": 2, "pre_iterations": 1, "max_iterations": 1,
    "val_every": 1,
}  # fmt: skip


def train(root, output, *flags):
    return helpers.train(DATASET, root, output, *flags, **NUMBERS)


def run_test(root, output, *flags):
    evaluate(
        DATASET,
        [
            "--root_path",
            str(root),
            "--output_root",
            str(output),
            "--labelnum",
            "1",
            "--device",
            "cpu",
            *flags,
        ],
    )


@pytest.fixture(scope="module")
def _run(phantom_root, tmp_path_factory):
    output = tmp_path_factory.mktemp("run")
    train(phantom_root, output)
    return output


@pytest.fixture
def run(_run, tmp_path):
    return Path(shutil.copytree(_run, tmp_path / "run"))


@pytest.fixture
def data(phantom_root, tmp_path):
    return Path(shutil.copytree(phantom_root, tmp_path / "data"))


def names(data, file):
    return (data / file).read_text(encoding="utf-8").split()


def slice_file(data, place):
    """A training slice: 0 is labelled, -1 is not."""
    return data / "data" / "slices" / f"{names(data, 'train_slices.list')[place]}.h5"


def change(path):
    """One pixel of an image more bright, size and shape as before."""
    with h5py.File(path, "a") as file:
        file["image"][...] = np.maximum(file["image"][()], file["image"][()].mean())


def swap(path):
    lines = path.read_text(encoding="utf-8").split()
    path.write_text("\n".join([lines[1], lines[0], *lines[2:]]) + "\n", encoding="utf-8")


CHANGES = {
    "labelled": lambda data: change(slice_file(data, 0)),
    "unlabelled": lambda data: change(slice_file(data, -1)),
    "validation": lambda data: change(data / "data" / f"{names(data, 'val.list')[0]}.h5"),
    "order": lambda data: swap(data / "train_slices.list"),
    "fewer": lambda data: (data / "val.list").write_text(names(data, "val.list")[0] + "\n"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_run_does_not_go_on_with_other_data(what, data, run, capsys):
    CHANGES[what](data)
    before = {path: path.read_bytes() for path in run.rglob("*.pth")}
    with pytest.raises(
        UserError,
        match=r"last.pth: was trained on other data: .*(changed|list).*--exp, or .*--other_data",
    ):
        train(data, run)
    assert {path: path.read_bytes() for path in run.rglob("*.pth")} == before
    train(data, run, "--other_data")
    assert "complete" in capsys.readouterr().out


def test_data_that_moved_are_the_same_data(data, run, capsys):
    train(data, run)
    assert "complete" in capsys.readouterr().out


def test_selftraining_does_not_begin_from_a_pretraining_on_other_data(data, run):
    change(slice_file(data, 0))
    shutil.rmtree(next(run.rglob("self_train")))
    with pytest.raises(
        UserError,
        match=r"pre_train/unet_best_model.pth: was trained on other data: .*slice_\d+.h5 has changed since;",
    ):
        train(data, run, "--run_mode", "selftrain")


def test_a_checkpoint_without_digest_is_taken(data, run, capsys):
    for path in run.rglob("*.pth"):
        content = load(path)
        del content["data"]
        torch.save(content, path)
    change(slice_file(data, 0))
    train(data, run)
    run_test(data, run)
    assert "complete" in capsys.readouterr().out


def test_checkpoints_hold_no_case_name(run):
    text = json.dumps(load(next(run.rglob("last.pth")))["data"])
    assert "patient" not in text and "slice" not in text


def test_testing_other_data_is_told(data, run, capsys):
    run_test(data, run)
    change(data / "data" / f"{names(data, 'test.list')[0]}.h5")
    with pytest.raises(
        UserError, match=r"unet_best_model.pth: .*h5 has changed since.*--other_data"
    ):
        run_test(data, run)
    run_test(data, run, "--other_data")
    assert "warning: " in capsys.readouterr().out


@pytest.mark.parametrize("renamed", [False, True])
def test_testing_what_was_trained_on_is_told(data, run, renamed):
    """By its name, or by its content under another one: the digest of the slice stands for a
    volume's here.
    """
    name = names(data, "test.list")[0]
    for path in run.rglob("*.pth"):
        content = load(path)
        if renamed:
            content["data"]["labelled"][0][1] = dict(content["data"]["test"])[digest.hashed(name)]
        else:
            content["data"]["cases"][0][0] = digest.hashed(name)
        torch.save(content, path)
    with pytest.raises(UserError, match=f"it was trained on {name} of test"):
        run_test(data, run)


def take(root, named):
    return digest_of(survey(root, LA, named))


def test_a_difference_is_named(tmp_path):
    paths = {name: tmp_path / name for name in "abcd"}
    for name, path in paths.items():
        path.write_text(f"content of {name}")
    named = {"labelled": [(n, paths[n]) for n in "ab"], "test": [(n, paths[n]) for n in "cd"]}
    before = take(tmp_path, named)
    paths["b"].write_text("content of B")
    assert (
        difference(before, take(tmp_path, named), named, ("labelled",))
        == f"{paths['b']} has changed since"
    )
    assert difference(before, take(tmp_path, named), named, ("test",)) == ""
    more = named | {"labelled": [*named["labelled"], ("d", paths["d"])]}
    assert "d is new in it" in difference(before, take(tmp_path, more), more, ("labelled",))
    less = named | {"labelled": named["labelled"][:1]}
    assert "a case is gone" in difference(before, take(tmp_path, less), less, ("labelled",))
    assert seen_in_training(before, survey(tmp_path, LA, more)["test"], "test") == ""
    leak = {"test": [("a", paths["c"]), ("x", paths["a"]), ("y", paths["d"])]}
    found = survey(tmp_path, LA, leak)["test"]
    assert seen_in_training(before, found, "test") == "a and 1 more of test"


def test_training_refuses_a_copy_of_a_test_case_under_another_name(data, tmp_path):
    a = slice_file(data, 0)
    shutil.copy(a, data / "data" / f"{names(data, 'test.list')[0]}.h5")
    with pytest.raises(
        UserError, match=r"\(test\) and .*slice.*\(labelled\) are the same scan under two names"
    ):
        train(data, tmp_path / "out")


def test_hashes_are_kept_and_a_changed_file_is_read_again(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "a"
    path.write_text("old")
    os.utime(path, ns=(10**18, 10**18))
    named = {"val": [("a", path)]}
    first = take(tmp_path, named)
    reads = []
    content = hashlib.blake2b
    monkeypatch.setattr(
        digest.hashlib, "blake2b", lambda *a, **k: reads.append(a) or content(*a, **k)
    )
    assert take(tmp_path, named) == first
    cached = len(reads)  # the names alone
    path.write_text("new")
    os.utime(path, ns=(10**18 + 1, 10**18 + 1))
    assert take(tmp_path, named) != first and len(reads) == 2 * cached + 1
    path.write_text("NEW")  # just now, of the same size: such a file is not believed to stay so
    second = take(tmp_path, named)
    path.write_text("OLD")
    assert take(tmp_path, named) != second
    (tmp_path / "cache" / "edge-guided-copy-paste").rename(tmp_path / "gone")
    (tmp_path / "cache" / "edge-guided-copy-paste").write_text("a file in the folder's place")
    assert take(tmp_path, named) != second


# lists


def test_a_test_case_in_training_is_told_though_the_run_validates_on_another_list(data, tmp_path):
    case = names(data, "train_slices.list")[0].rpartition("_slice_")[0]
    with open(data / "test.list", "a") as file:
        file.write(f"{case}\n")
    with pytest.raises(UserError, match=f"case {case} is listed for labelled and for test"):
        train(data, tmp_path / "out")
    (data / "test.list").write_text("not_there_yet\n")  # nobody tests now
    train(data, tmp_path / "out")


def test_validation_equal_to_test_is_one_fault(data, tmp_path):
    shutil.copy(data / "test.list", data / "val.list")
    with pytest.raises(
        UserError, match=r"the lists for val and for test name the same cases.*--select test"
    ):
        train(data, tmp_path / "out")
    train(data, tmp_path / "out", "--select", "test")
    (fault,) = list_faults(
        data, ACDC, {"val": names(data, "val.list"), "test": names(data, "test.list")}
    )
    assert "name the same cases" in fault


# contents


def test_constant_images_and_empty_labels_are_told(data, capsys):
    slices = names(data, "train_slices.list")
    for index, path in enumerate(data / "data" / "slices" / f"{name}.h5" for name in slices):
        with h5py.File(path, "a") as file:
            file["label"][...] = 0 if index else 1
            if not index:
                file["image"][...] = 5
    said = []
    first = data / "data" / "slices" / f"{slices[0]}.h5"
    Slices(ACDC, data, slices, 4, 2 * (Augmentation(()),), said.append)
    assert said == [
        f"warning: 1 of {len(slices)} ({first}) training slices have a constant image; check them"
    ]
    with pytest.raises(
        UserError, match=r"a label without foreground, and so are all 4 training slices"
    ):
        Slices(ACDC, data, slices[1:], 4, 2 * (Augmentation(()),), said.append)
    volume = data / "data" / f"{names(data, 'test.list')[0]}.h5"
    with h5py.File(volume, "a") as file:
        file["label"][...] = 0
    read_cases(ACDC, data, "test")
    assert (
        f"warning: 1 of 2 ({volume}) test volumes have a label without foreground"
        in capsys.readouterr().out
    )


def test_a_split_without_a_list_is_empty(tmp_path):
    assert LA.held_out(tmp_path, "val") == []
    (tmp_path / "val.list").write_text("\n")
    assert LA.held_out(tmp_path, "val") == []


@pytest.mark.parametrize("cache", ["ram", "none"])
def test_volumes_are_looked_at_whether_they_are_kept_or_not(la_root, tmp_path, cache):
    """Of those that are not kept, the labelled ones: no draw of a label without foreground would
    ever be noticed.
    """
    root = Path(shutil.copytree(la_root, tmp_path / "data"))
    paths = [LA.path(root, name) for name in names(root, "train.list")]
    with h5py.File(paths[0], "a") as file:
        file["image"][...] = 5
        file["label"][...] = 0
    said = []

    def read(labelled):
        return VolumePatches(
            LA,
            root,
            names(root, "train.list"),
            labelled,
            2 * (Augmentation(()),),
            said.append,
            cache,
        )

    assert len(read(2)) == len(paths)
    looked_at, what = (len(paths), "training") if cache == "ram" else (2, "labelled")
    assert (
        f"warning: 1 of {looked_at} ({paths[0]}) {what} volumes have a constant image; check them"
        in said
    )
    assert (
        f"warning: 1 of 2 ({paths[0]}) {what} volumes have a label without foreground; check them"
        in said
    )
    with pytest.raises(
        UserError,
        match="a label without foreground, and so are all"
        if cache == "ram"
        else "a constant image",
    ):
        read(1)
