"""One run, one writer, and --fresh moves nothing but runs."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import helpers
import pytest
from helpers import unfinished

from programs.run_folder import claimed, move_aside
from recipes.acdc import PAGE
from utils import lock
from utils.errors import UserError
from utils.lock import HOLDER, only_writer

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
        time.sleep(2)
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
            helpers.train(PAGE, phantom_root, tmp_path / "out", *flags, **NUMBERS)
    assert {path.name for path in folder.iterdir()} <= {lock.NAME, HOLDER}


def test_a_killed_writer_holds_nothing(phantom_root, tmp_path, holding):
    folder = tmp_path / "out" / "BCP" / "ACDC_supervised_1_labeled"
    process = holding(folder)
    unfinished(folder / "last.pth", process.pid).write_text("half")
    (folder / ".7-mine.txt").write_text("mine")
    process.kill()
    process.wait()
    assert helpers.train(PAGE, phantom_root, tmp_path / "out", **NUMBERS)
    assert (
        not list(folder.rglob(".unfinished*"))
        and (folder / ".7-mine.txt").read_text() == "mine"
        and not (folder / HOLDER).exists()
    )


def test_processes_that_outlive_a_killed_writer_are_waited_for(tmp_path, holding):
    """As those that prepare batches do for some seconds: they have inherited its lock."""
    process = holding(tmp_path, fork=True)
    process.kill()
    process.wait()
    began = time.monotonic()
    with only_writer(tmp_path, "wait"):
        assert time.monotonic() - began < lock.LINGER
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
        pytest.raises(UserError, match=r"--fresh: .*thesis holds no run, so it is left alone"),
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
