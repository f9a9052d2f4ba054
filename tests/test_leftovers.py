"""What a killed process leaves is swept at the next start, wherever it wrote; what it did not leave stays."""

import multiprocessing
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path

import pytest
from helpers import ACDC, train, unfinished

from comparison.command import compare
from dataloaders.digest import take
from dataloaders.phantom.raw import write_raw_phantom
from dataloaders.phantom.write import write_acdc_phantom
from preparation.checks.command import check
from programs.evaluation import evaluate
from programs.export import export
from programs.scoring import score
from recipes.acdc import PAGE
from registration import register as registration
from utils import files
from utils.files import left_behind, remove_unfinished, scratch
from utils.workers import worker_pool

DEAD = 99999999
NUMBERS = {
    "labelnum": 1, "patch_size": (32, 32), "egm": "none", "batch_size": 4, "labeled_bs": 2, "pre_iterations": 1, "max_iterations": 1,
    "val_every": 2, "method": "supervised",
}  # fmt: skip


@pytest.fixture(scope="module")
def best(phantom_root, tmp_path_factory):
    """The checkpoint of a run that has been tested."""
    output = tmp_path_factory.mktemp("run")
    train(PAGE, phantom_root, output, **NUMBERS)
    best = output / "BCP" / "ACDC_supervised_1_labeled" / "supervised" / "unet_best_model.pth"
    evaluate(PAGE, ["--root_path", str(phantom_root), "--checkpoint", str(best), "--device", "cpu"])
    return best


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    root = tmp_path_factory.mktemp("raw")
    write_raw_phantom(ACDC, root, 1, 1, 1, 1, (48,), 1337)
    return root


def register(root, output, monkeypatch):
    """The registration up to where its work begins."""
    monkeypatch.setattr(registration, "_make", lambda *_: {})
    monkeypatch.setattr(registration, "report", lambda *_: None)
    flags = [
        "--labelnum",
        "1",
        "--planes",
        "middle",
        "middle",
        "--dataset",
        "LA",
        "--output_dir",
        str(output),
    ]
    registration.register([*flags, "--root_path", str(root)])


@pytest.mark.parametrize(
    "program",
    [
        "phantom",
        "test",
        "export",
        "page",
        "scores",
        "check",
        "registration",
        "registered data",
        "hashes",
    ],
)
def test_every_program_sweeps_where_it_writes(
    program, best, raw, phantom_root, la_root, tmp_path, monkeypatch
):
    out, data, cache = tmp_path / "out", tmp_path / "data", tmp_path / "edge-guided-copy-paste"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    labels = ["--predictions", str(raw / "labelsTr"), "--labels", str(data)]
    work, place = {
        "phantom": (lambda: write_acdc_phantom(out, 1, 1, 1, 48), out),
        "test": (lambda: evaluate(PAGE, ["--root_path", str(phantom_root), "--checkpoint", str(best), "--output_dir", str(out)]), out),
        "export": (lambda: export([str(best), str(out / "x.pth")]), out),
        "page": (lambda: compare([str(best.parent), "--output", str(out)]), out),
        "scores": (lambda: score([*labels, "--output", str(out), "--workers", "1"]), out),
        "check": (lambda: check(["--root_path", str(raw), "--output", str(out), "--workers", "1"]), out),
        "registration": (lambda: register(la_root, out, monkeypatch), out),
        "registered data": (lambda: register(data, out, monkeypatch), data / "deep"),
        "hashes": (lambda: take(phantom_root, {"test": [("a", phantom_root / "test.list")]}), cache),
    }[program]  # fmt: skip
    if program == "scores":
        shutil.copytree(raw / "labelsTr", data)
    if program == "registered data":
        shutil.copytree(la_root, data)
    place.mkdir(parents=True)
    left, mine = unfinished(place / "case.h5", DEAD), place / ".unfinished-thesis.txt"
    for path in (left, mine):
        path.write_text("x")
    work()
    assert not left.exists() and mine.read_text() == "x"


def test_scratch_of_killed_processes_goes_and_nothing_else(tmp_path, monkeypatch):
    """Folders among the system's temporary files: of this machine's ended processes, not through a link, not of living ones."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left, living, notes = (
        unfinished(tmp_path / "workers-x", process) for process in (DEAD, os.getppid(), DEAD - 1)
    )
    for folder in (left, living, tmp_path / "thesis"):
        folder.mkdir()
        (folder / "file").write_text("x")
    notes.symlink_to(tmp_path / "thesis")
    with worker_pool(1):
        scratched = Path(os.environ["TMPDIR"])
        assert scratched.parent == tmp_path and scratched.is_dir()
        assert set(tmp_path.iterdir()) == {living, notes, tmp_path / "thesis", scratched}
        remove_unfinished(tmp_path, below=False)
        assert scratched.is_dir()
    assert (
        not scratched.exists()
        and (tmp_path / "thesis" / "file").exists()
        and (living / "file").exists()
    )
    with scratch("a") as one, scratch("a") as other:
        assert one != other and one.is_dir()


def test_nothing_of_a_pool_outlives_an_interruption():
    """No process, and no thread, which Python would wait for at its end."""
    threads = set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt), worker_pool(1) as pool:
        future = pool.submit(time.sleep, 600)
        while not future.running():
            time.sleep(0.01)
        raise KeyboardInterrupt
    assert set(threading.enumerate()) <= threads and not multiprocessing.active_children()


def test_what_cannot_be_removed_stops_nothing(tmp_path, monkeypatch):
    left = unfinished(tmp_path / "case.h5", DEAD)
    left.write_text("x")

    def refuse(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "unlink", refuse)
    remove_unfinished(tmp_path)
    assert left.exists()


def test_another_machines_files_are_as_old_as_the_disk_says(tmp_path, monkeypatch):
    """This machine's clock may stand a year ahead: what another one writes at this moment is not swept for that."""
    monkeypatch.setattr("time.time", lambda: 2e10)
    path = tmp_path / ".unfinished-00000000-7-case.h5"
    path.write_text("x")
    assert not left_behind(path, "00000000", 7)
    now = path.stat().st_mtime
    os.utime(path, (now, now - files.ABANDONED - 60))
    assert left_behind(path, "00000000", 7)
    os.utime(path, (now, now + 10 * files.ABANDONED))  # its clock stood ahead
    assert not left_behind(path, "00000000", 7)
