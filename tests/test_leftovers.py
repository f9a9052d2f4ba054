"""What a killed process leaves is swept at the next start, wherever it wrote; what it did not leave
stays.
"""

import errno
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from helpers import ACDC, train, unfinished
from scripts import check, compare, evaluate, export, main_of, predict, prepare, score

from commands import register as registration
from dataloaders.digest import survey
from dataloaders.phantom.raw_scans import write_raw_phantom
from dataloaders.phantom.write import write_acdc_phantom
from datasets.acdc import DATASET
from utils import files
from utils.errors import UserError
from utils.files import remove_unfinished, replacing, scratch
from utils.lock import only_writer
from utils.workers import worker_pool

NUMBERS = {
    "labelnum": 1, "patch_size": (32, 32), "egm": "none", "batch_size": 4, "labeled_bs": 2, "pre_iterations": 1, "max_iterations": 1,
    "val_every": 2, "method": "supervised",
}  # fmt: skip


@pytest.fixture(scope="module")
def best(phantom_root, tmp_path_factory):
    """The checkpoint of a run that has been tested."""
    output = tmp_path_factory.mktemp("run")
    train(DATASET, phantom_root, output, **NUMBERS)
    best = output / "BCP" / "ACDC_supervised_1_labeled" / "supervised" / "unet_best_model.pth"
    evaluate(
        DATASET, ["--root_path", str(phantom_root), "--checkpoint", str(best), "--device", "cpu"]
    )
    return best


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    root = tmp_path_factory.mktemp("raw")
    write_raw_phantom(ACDC, root, 1, 1, 1, 1, (48,), 1337)
    return root


def register(root, output, monkeypatch):
    """The registration up to where its work begins."""
    monkeypatch.setattr(registration, "_make", lambda *_, **__: {})
    monkeypatch.setattr(registration, "report", lambda *_, **__: None)
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
    main_of("CoGRNet_register")([*flags, "--root_path", str(root)])


@pytest.fixture
def programs(best, raw, phantom_root, la_root, tmp_path, monkeypatch):
    """What each program does, and the folder that it writes to."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    out, data, cache = tmp_path / "out", tmp_path / "data", tmp_path / "edge-guided-copy-paste"
    truth = tmp_path / "truth"
    aged = tmp_path / "aged.list"  # hashes of files that changed a moment ago are not kept
    shutil.copyfile(phantom_root / "test.list", aged)
    os.utime(aged, (0, 0))
    shutil.copytree(la_root, data)
    shutil.copytree(raw / "labelsTr", truth)
    labels = ["--predictions", str(raw / "labelsTr"), "--labels", str(truth), "--workers", "1"]
    preparing = ["--dataset", "own", "--source", str(raw), "--dims", "2", "--workers", "1"]
    return {
        "phantom": (lambda: write_acdc_phantom(out, 1, 1, 1, 48), out),
        "test": (lambda: evaluate(DATASET, ["--root_path", str(phantom_root), "--checkpoint", str(best), "--output_dir", str(out)]), out),
        "export": (lambda: export([str(best), str(out / "x.pth")]), out),
        "page": (lambda: compare([str(best.parent), "--output", str(out)]), out),
        "scores": (lambda: score([*labels, "--output", str(out)]), out),
        "check": (lambda: check(["--root_path", str(raw), "--output", str(out), "--workers", "1"]), out),
        "registration": (lambda: register(la_root, out, monkeypatch), out),
        "registered data": (lambda: register(data, out, monkeypatch), data),
        "hashes": (lambda: survey(phantom_root, ACDC, {"test": [("a", aged)]}), cache),
        "prediction": (lambda: predict(["--checkpoint", str(best), "--input", str(raw / "imagesTs"), "--output", str(out)]), out),
        "preparation": (lambda: prepare([*preparing, "--root_path", str(out)]), out),
    }  # fmt: skip


WRITERS = ["phantom", "test", "page", "scores", "registration", "registered data", "prediction", "preparation"]  # fmt: skip


@pytest.mark.parametrize("program", [*WRITERS, "export", "check", "hashes"])
def test_every_program_sweeps_where_it_writes(program, programs):
    work, place = programs[program]
    place.mkdir(parents=True, exist_ok=True)
    left, mine = unfinished(place / "case.h5"), place / ".unfinished-thesis.txt"
    for path in (left, mine):
        path.write_text("x")
    work()
    assert not left.exists() and mine.read_text() == "x"


@pytest.mark.parametrize("program", WRITERS)
def test_every_program_refuses_a_folder_that_another_one_writes_to(program, programs):
    work, place = programs[program]
    before = set(place.rglob("*"))
    words = f"^{place}: process .* is writing to it; wait until"
    with only_writer(place, "wait"), pytest.raises(UserError, match=words):
        work()
    assert set(place.rglob("*")) == before


@pytest.mark.parametrize("program", WRITERS)
def test_no_lock_is_left_by_a_program_that_ended(program, programs):
    work, place = programs[program]
    work()
    assert not list(place.rglob("writer*"))


def abandoned_scratch(folder):
    """A scratch folder as a killed process leaves it."""
    left = unfinished(folder / "workers-x")
    left.mkdir()
    (left / files.IN_USE).touch()
    return left


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """A temporary folder of the system with nothing in it."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_scratch_of_killed_processes_is_swept(temporary):
    left = abandoned_scratch(temporary)
    with scratch("a"):
        assert not left.exists()


def test_scratch_in_use_is_not_swept(temporary):
    with scratch("a") as first, scratch("a") as second:
        remove_unfinished(temporary, below=False)
        assert first.is_dir() and second.is_dir() and first != second
    assert not first.exists() and not second.exists()


def test_scratch_that_is_being_made_is_not_swept(temporary):
    """It has no lock yet."""
    new = unfinished(temporary / "workers-x")
    new.mkdir()
    remove_unfinished(temporary, below=False)
    assert new.is_dir()


def test_a_link_named_like_scratch_is_not_followed(temporary):
    abandoned = abandoned_scratch(temporary)
    thesis = abandoned.rename(temporary / "thesis")
    abandoned.symlink_to(thesis)
    remove_unfinished(temporary, below=False)
    assert (thesis / files.IN_USE).exists()


def test_a_pool_works_in_scratch_of_its_own(temporary):
    with worker_pool(1):
        folder = Path(os.environ["TMPDIR"])
        assert folder.parent == temporary and folder.is_dir()
    assert not folder.exists()


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
    left = unfinished(tmp_path / "case.h5")
    left.write_text("x")

    def refuse(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "unlink", refuse)
    remove_unfinished(tmp_path)
    assert left.exists()


WRITE = """
import sys, time
from pathlib import Path
sys.path.insert(0, {repository!r})
from utils.files import replacing
with replacing(Path({path!r})) as unfinished:
    unfinished.write_text("half")
    print(unfinished, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def half_written(tmp_path):
    """A process that is writing a file, and the temporary file that it writes to."""
    code = WRITE.format(repository=str(Path(__file__).parents[1]), path=str(tmp_path / "case.h5"))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    yield process, Path(process.stdout.readline().rstrip())
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_file_that_another_process_is_writing_is_not_swept(half_written, tmp_path):
    _, path = half_written
    remove_unfinished(tmp_path)
    assert path.read_text() == "half"


def test_a_file_is_swept_as_soon_as_its_writer_was_killed(half_written, tmp_path):
    process, path = half_written
    process.kill()
    process.wait()
    remove_unfinished(tmp_path)
    assert not path.exists()


def test_the_name_and_number_of_a_process_decide_nothing(half_written, tmp_path, monkeypatch):
    """Two containers have the same host name, and processes of the same number."""
    process, path = half_written
    monkeypatch.setattr("platform.node", lambda: "container")
    monkeypatch.setattr("os.getpid", lambda: process.pid)
    remove_unfinished(tmp_path)
    assert path.exists()


def test_a_link_named_like_the_temporary_file_is_not_followed(tmp_path, monkeypatch):
    """As somebody would lay it who guessed the name."""
    mine = tmp_path / "mine.txt"
    mine.write_text("mine")
    link = tmp_path / ".unfinished-0123456789abcdef-case.h5"
    link.symlink_to(mine)
    monkeypatch.setattr("secrets.token_hex", lambda _: "0123456789abcdef")
    with pytest.raises(FileExistsError), replacing(tmp_path / "case.h5") as unfinished:
        unfinished.write_text("x")
    assert mine.read_text() == "mine" and link.is_symlink()


def test_a_link_put_in_place_of_the_temporary_file_is_refused(tmp_path):
    mine = tmp_path / "mine.txt"
    mine.write_text("mine")
    with (
        pytest.raises(OSError, match="replaced by a link"),
        replacing(tmp_path / "case.h5") as unfinished,
    ):
        unfinished.unlink()
        unfinished.symlink_to(mine)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.txt"]


def test_temporary_names_are_never_the_same(tmp_path):
    names = {unfinished(tmp_path / "case.h5") for _ in range(1000)}
    assert len(names) == 1000


@pytest.fixture
def without_locks(monkeypatch):
    """A file system on which no lock can be taken."""

    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("utils.flock.fcntl.flock", refuse)


def test_without_locks_a_file_is_swept_a_day_after_its_last_change(tmp_path, without_locks):
    old, new = unfinished(tmp_path / "old.h5"), unfinished(tmp_path / "new.h5")
    for path in (old, new):
        path.write_text("x")
    now = new.stat().st_mtime
    os.utime(old, (now, now - files.ABANDONED - 60))
    remove_unfinished(tmp_path)
    assert new.exists() and not old.exists()


def test_the_age_of_a_file_goes_by_the_clock_of_the_disk(tmp_path, without_locks, monkeypatch):
    """This machine's clock may be a year ahead."""
    monkeypatch.setattr("time.time", lambda: 2e10)
    path = unfinished(tmp_path / "case.h5")
    path.write_text("x")
    remove_unfinished(tmp_path)
    assert path.exists()
