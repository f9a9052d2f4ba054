"""One run, one writer, and --fresh moves nothing but runs."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import helpers
import pytest
from helpers import unfinished

from commands.run_folder import claimed, move_aside
from datasets.acdc import DATASET
from utils import lock
from utils.errors import UserError
from utils.flock import Answer
from utils.lock import HOLDER, only_writer, only_writer_of_part

pytestmark = pytest.mark.usefixtures("narrow")

REPOSITORY = Path(__file__).parents[1]
NUMBERS = {
    "labelnum": 1, "patch_size": (32, 32), "egm": "none", "batch_size": 4, "labeled_bs": 2, "pre_iterations": 1, "max_iterations": 1,
    "val_every": 1, "method": "supervised",
}  # fmt: skip
HOLD = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, {repository!r})
from utils.lock import only_writer
with only_writer(Path({folder!r}), ""):
    if {fork} and os.fork() == 0:
        time.sleep(5)
        os._exit(0)
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holding(tmp_path):
    """A process that holds the lock of a folder."""
    begun = []

    def hold(folder, fork=False):
        code = HOLD.format(repository=str(REPOSITORY), folder=str(folder), fork=fork)
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )
        begun.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield hold
    for process in begun:
        process.kill()
        process.wait()
        process.stdout.close()


def test_the_second_writer_is_told_who_holds_the_run(phantom_root, tmp_path, holding):
    folder = tmp_path / "out" / "BCP" / "ACDC_supervised_1_labeled"
    process = holding(folder)
    for flags in ([], ["--fresh"]):
        with pytest.raises(
            UserError,
            match=rf"process {process.pid} on .* is writing to it; wait until it has ended, or give another --exp",
        ):
            helpers.train(DATASET, phantom_root, tmp_path / "out", *flags, **NUMBERS)
    assert {path.name for path in folder.iterdir()} == {lock.NAME, HOLDER}


def test_a_killed_writer_holds_nothing(phantom_root, tmp_path, holding):
    folder = tmp_path / "out" / "BCP" / "ACDC_supervised_1_labeled"
    process = holding(folder)
    unfinished(folder / "last.pth").write_text("half")
    (folder / ".7-mine.txt").write_text("mine")
    process.kill()
    process.wait()
    assert helpers.train(DATASET, phantom_root, tmp_path / "out", **NUMBERS)
    assert (
        not list(folder.rglob(".unfinished*"))
        and (folder / ".7-mine.txt").read_text() == "mine"
        and not (folder / HOLDER).exists()
    )


def test_processes_that_outlive_a_killed_writer_do_not_hold_its_folder(tmp_path, holding):
    """As those that prepare batches do for some seconds: they were forked while it held the lock."""
    process = holding(tmp_path, fork=True)
    process.kill()
    process.wait()
    with only_writer(tmp_path, "wait"):
        about = json.loads((tmp_path / HOLDER).read_text(encoding="utf-8"))
        assert about["process"] == os.getpid()
        with (
            pytest.raises(UserError, match=f"process {os.getpid()} on"),
            only_writer(tmp_path, "wait"),
        ):
            pass
    with only_writer(tmp_path, "wait"):
        pass


def test_fresh_moves_runs_alone(tmp_path):
    folder = tmp_path / "thesis"
    folder.mkdir()
    with claimed(folder, [folder]):
        pass  # an empty folder is nobody's
    (folder / "chapter.tex").write_text("mine")
    with (
        pytest.raises(UserError, match=r"--fresh: .*thesis holds no run, so it is not moved"),
        claimed(folder, [folder]),
    ):
        pass
    assert (folder / "chapter.tex").read_text() == "mine"
    (folder / "train.log").touch()
    with claimed(folder, [folder]):
        assert not (folder / "train.log").exists()
    (aside,) = tmp_path.glob("thesis.*")
    assert (aside / "chapter.tex").read_text() == "mine"
    with pytest.raises(UserError, match="holds no run"):
        (tmp_path / "stage").mkdir()
        (tmp_path / "stage" / "x").touch()
        move_aside(tmp_path / "stage")


# who locks what


def test_a_folder_that_nothing_was_written_to_is_not_left(tmp_path):
    with only_writer(tmp_path / "a" / "b", "wait"):
        assert (tmp_path / "a" / "b" / lock.NAME).is_file()
    assert not (tmp_path / "a").exists()


def test_a_lock_leaves_no_file(tmp_path):
    with only_writer(tmp_path, "wait"):
        (tmp_path / "result").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["result"]


def test_a_lock_whose_file_was_deleted_meanwhile_does_not_count(tmp_path, monkeypatch):
    """Its holder deleted it between our opening and our locking it: somebody else may lock the new
    file.
    """
    opened = []
    real = lock._open

    def opened_too_early(path):
        file = real(path)
        opened.append(file)
        if len(opened) == 1:
            path.unlink()
        return file

    monkeypatch.setattr(lock, "_open", opened_too_early)
    with only_writer(tmp_path, "wait"):
        assert len(opened) == 2 and opened[1].is_at_its_path()


def test_a_link_named_like_the_lock_is_not_followed(tmp_path):
    mine = tmp_path / "mine"
    mine.write_text("mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / lock.NAME).symlink_to(mine)
    with (
        pytest.raises(UserError, match=r"out: cannot be written"),
        only_writer(tmp_path / "out", "x"),
    ):
        pass
    assert mine.read_text() == "mine"


@pytest.mark.parametrize(
    "text", ["[]", "{", '{"process": [1], "since": {"a": "\\u001b"}}', "[" * 9999]
)
def test_a_damaged_note_of_the_holder_does_not_matter(tmp_path, text):
    with only_writer(tmp_path, "wait"):
        (tmp_path / HOLDER).write_text(text)
        with (
            pytest.raises(UserError, match="is writing to it") as caught,
            only_writer(tmp_path, "x"),
        ):
            pass
        assert str(caught.value).isprintable()


@pytest.mark.parametrize("number", ["ENOLCK", "EOPNOTSUPP", "ENOSYS", "EINVAL"])
def test_a_file_system_without_locks_is_a_warning(tmp_path, monkeypatch, capsys, number):
    def refuse(*_):
        raise OSError(getattr(errno, number), os.strerror(getattr(errno, number)))

    monkeypatch.setattr("utils.flock.fcntl.flock", refuse)
    with only_writer(tmp_path, "wait"):
        pass
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"warning: {tmp_path}: its file system has no locks")


def test_without_locks_the_warning_says_who_wrote_last(tmp_path, monkeypatch, capsys):
    (tmp_path / HOLDER).write_text(
        '{"process": 7, "machine": "node3", "since": "2026", "command": "train"}'
    )
    monkeypatch.setattr(lock.LockedFile, "lock", lambda *_, **__: Answer.NONE)
    with only_writer(tmp_path, "wait"):
        pass
    assert (
        "process 7 on node3 (since 2026: train) has written to it and may still be running"
        in capsys.readouterr().out
    )


# parts of a folder


def part(folder, number, count):
    return only_writer_of_part(folder, number, count, remedy="wait")


def refused(context):
    with pytest.raises(UserError, match="is writing to it"), context:
        pass


def test_two_parts_of_a_folder_are_written_at_the_same_time(tmp_path):
    with part(tmp_path, 1, 2), part(tmp_path, 2, 2):
        (tmp_path / "result").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["result"]


def test_the_same_part_is_not_written_twice(tmp_path):
    with part(tmp_path, 1, 2):
        refused(part(tmp_path, 1, 2))


def test_a_folder_whose_parts_are_written_is_not_written_as_a_whole(tmp_path):
    with part(tmp_path, 1, 2), part(tmp_path, 2, 2):
        refused(only_writer(tmp_path, "wait"))


def test_a_folder_that_is_written_as_a_whole_is_not_written_in_parts(tmp_path):
    with only_writer(tmp_path, "wait"):
        refused(part(tmp_path, 1, 2))


def test_parts_of_another_division_are_refused(tmp_path):
    with part(tmp_path, 1, 2):
        refused(part(tmp_path, 3, 3))


def test_a_part_that_ends_leaves_the_others_their_lock(tmp_path):
    with part(tmp_path, 2, 2):
        with part(tmp_path, 1, 2):
            pass
        refused(only_writer(tmp_path, "wait"))
    with only_writer(tmp_path, "wait"):
        pass
