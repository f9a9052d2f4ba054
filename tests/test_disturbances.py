"""What happens around a run: a clock that jumps, a disk that turns read-only, what somebody
deletes, a loader that hangs.
"""

import ctypes
import io
import multiprocessing
import os
import shutil
import signal
import time
from dataclasses import dataclass

import helpers
import pytest
import torch
import tqdm.std
from forked import Forked
from helpers import stages

from commands import batches
from commands.batches import loader
from dataloaders.samples import Samples
from datasets.acdc import DATASET
from methods.bcp import BCPPretrain
from training.batch_source import BatchSource
from training.log import StageLog
from training.outside_faults import as_user_error
from training.signals import GRACE
from utils.cli import run
from utils.errors import Interrupted, UserError
from utils.progress import progress
from utils.workers import worker_pool

NUMBERS = {
    "labelnum": 1, "patch_size": (32, 32), "egm": "none", "batch_size": 4, "labeled_bs": 2, "pre_iterations": 3, "val_every": 1,
    "run_mode": "pretrain",
}  # fmt: skip
FOLDER = "BCP/ACDC_BCP_1_labeled"


@pytest.fixture(scope="module")
def expected(phantom_root, tmp_path_factory):
    """What an undisturbed run leaves."""
    return helpers.train(DATASET, phantom_root, tmp_path_factory.mktemp("expected"), **NUMBERS)


@pytest.fixture
def at_step(monkeypatch):
    """Have `what` called after that step of the pre-training, when everything before it is on disk."""

    def hook(step, what):
        begin = BCPPretrain.after_step

        def after(phase, at):
            begin(phase, at)
            if at == step:
                what()

        monkeypatch.setattr(BCPPretrain, "after_step", after)

    return hook


@pytest.fixture(autouse=True)
def written_at_once(monkeypatch):
    """Every save is on disk before the next step, so that it is known what a disturbance finds
    there.
    """
    from training.saving import Saver

    save = Saver.save

    def save_and_wait(self, *arguments, **options):
        save(self, *arguments, **options)
        self.wait()

    monkeypatch.setattr(Saver, "save", save_and_wait)


# clocks


@pytest.mark.parametrize("jump", [-3600, 3600])
def test_a_bar_goes_by_the_time_that_passes(monkeypatch, jump):
    """tqdm goes by the clock: set back by an hour, it stood still for one; set on, the hour was
    counted as work.
    """
    clock = [1e9]
    monkeypatch.setattr(tqdm.std, "time", lambda: clock[0])
    shown = io.StringIO()
    bar = progress(total=100, file=shown, desc="x")
    bar.mininterval = 0
    bar.update(10)
    clock[0] += jump
    bar.update(10)
    assert "20/100" in shown.getvalue() and 0 <= bar.format_dict["elapsed"] < 60
    bar.close()


def test_a_run_whose_clock_jumps_is_the_same_run(
    phantom_root, expected, tmp_path, monkeypatch, at_step
):
    jumps = iter([-1e6, 1e6, -1e9])
    now = time.time

    def leap():
        shift = next(jumps, 0)
        monkeypatch.setattr(time, "time", lambda: now() + shift)

    at_step(1, leap)
    helpers.assert_same(
        helpers.train(DATASET, phantom_root, tmp_path / "leaping", **NUMBERS), expected
    )


def test_curves_of_a_resumed_run_have_a_file_of_their_own_though_the_clock_was_put_back(
    tmp_path, monkeypatch
):
    """tensorboardX names the file by the second, and would write over the earlier one."""
    monkeypatch.setattr(time, "time", lambda: 1e9)
    for start in (0, 5):
        log = StageLog(tmp_path, "x", start, 10)
        log.step(start + 1, {"loss": 1.0})
        log.close()
    first, second = sorted((tmp_path / "log").iterdir())
    assert first.stat().st_size > 0 and second.stat().st_size > 0


# folders and files


def test_an_output_folder_that_cannot_be_made_is_one_line(phantom_root, tmp_path):
    """As on a read-only disk; the rights of folders mean nothing to root."""
    (tmp_path / "out").write_text("in its place")
    with pytest.raises(
        UserError,
        match=r"out/BCP/ACDC_BCP_1_labeled: cannot be written \(Not a directory\); give another --exp or --output_root$",
    ):
        helpers.train(DATASET, phantom_root, tmp_path / "out", **NUMBERS)


@pytest.mark.parametrize("writable", [0, 2])
def test_a_disk_that_turns_read_only_is_one_line_and_keeps_what_is_there(
    phantom_root, tmp_path, monkeypatch, at_step, writable
):
    """As Linux does with a disk that has errors."""
    from training import checkpoint

    def refuse(*_):
        raise OSError(30, "Read-only file system")

    at_step(writable, lambda: monkeypatch.setattr(checkpoint.torch, "save", refuse))
    says = r"last.pth: could not be written \(Read-only file system\);.* then start the same command again$"
    with pytest.raises(UserError, match=says) as caught:
        helpers.train(DATASET, phantom_root, tmp_path, **NUMBERS)
    assert ("earlier checkpoint is intact" in str(caught.value)) == (writable > 0)
    kept = stages(tmp_path)
    assert kept.keys() == (
        {"pre_train/last.pth", "pre_train/unet_best_model.pth"} if writable else set()
    )
    assert not kept or kept["pre_train/last.pth"]["progress"]["step"] == writable


@pytest.mark.parametrize("vanish", ["deleted", "moved"])
def test_a_run_whose_folder_vanishes_ends_with_one_line_and_makes_no_second_one(
    phantom_root, tmp_path, at_step, vanish
):
    """It went on in a folder made anew, that nobody had locked, and had the end of the run without
    its beginning.
    """
    folder = tmp_path / FOLDER
    at_step(
        1,
        lambda: (
            shutil.rmtree(folder) if vanish == "deleted" else folder.rename(tmp_path / "elsewhere")
        ),
    )
    with pytest.raises(
        UserError,
        match=r"pre_train: gone, moved or deleted .*; put it back and start the same command again",
    ) as caught:
        helpers.train(DATASET, phantom_root, tmp_path, **NUMBERS)
    assert str(caught.value).isprintable() and not folder.exists()
    if vanish == "moved":
        (tmp_path / "elsewhere").rename(folder)
        assert stages(tmp_path)["pre_train/last.pth"]["progress"]["step"] == 1


@pytest.mark.parametrize("name", ["last.pth", "unet_best_model.pth"])
def test_a_checkpoint_deleted_during_the_run_is_missed_where_it_matters(
    phantom_root, tmp_path, at_step, capsys, name
):
    """`last.pth` is written again by the next save; a best one that is never bettered is gone, and
    was not missed.
    """
    path = tmp_path / FOLDER / "pre_train" / name
    at_step(2, path.unlink)
    found = helpers.train(DATASET, phantom_root, tmp_path, **NUMBERS)
    assert found["pre_train/last.pth"]["progress"]["step"] == 3
    progress = found["pre_train/last.pth"]["progress"]
    if name == "last.pth" or progress["best_step"] == 3:
        assert "pre_train/unet_best_model.pth" in found
        path.with_name("unet_best_model.pth").unlink()
    capsys.readouterr()
    helpers.train(DATASET, phantom_root, tmp_path, **NUMBERS)
    assert (
        f"warning: {path.with_name('unet_best_model.pth')} is gone, deleted since it was written; "
        "put it back, or copy last.pth" in capsys.readouterr().out
    )


def test_data_deleted_during_the_run_were_in_memory_and_are_missed_at_the_next_start(
    phantom_root, expected, tmp_path, at_step
):
    data = shutil.copytree(phantom_root, tmp_path / "data")
    at_step(1, lambda: shutil.rmtree(data / "data"))
    helpers.assert_same(helpers.train(DATASET, data, tmp_path / "out", **NUMBERS), expected)
    with pytest.raises(UserError, match=r"h5: no such file, though a case list names it"):
        helpers.train(DATASET, data, tmp_path / "out", **NUMBERS)


# hangs


class Stuck(Samples):
    """Images that a disk does not give."""

    labelled, unlabelled = 1, 0

    def __len__(self) -> int:
        return 1

    def __getitems__(self, drawn):
        time.sleep(60)


@dataclass(frozen=True)
class OneWorker:
    """Settings of a loader with one process, whose batches are 1 MiB of images and 0.25 MiB of
    labels.
    """

    num_workers: int = 1
    patch_size: tuple[int, ...] = (256, 256)
    batch_size: int = 4
    labeled_bs: int = 4


def batches_of(data):
    return BatchSource(loader(data, [[0]], OneWorker(), torch.device("cpu")))


def test_a_loader_that_hangs_is_told_and_ended(monkeypatch):
    monkeypatch.setattr(batches, "LOADER_TIMEOUT", 1)
    monkeypatch.setattr("training.batch_source.PATIENCE", 0.2)
    source = batches_of(Stuck())
    words = r"no batch for 30 minutes, .*use --num_workers 0; the last checkpoint is kept$"
    with pytest.raises(UserError, match=words), as_user_error(torch.device("cpu"), 2):
        source.next()
    source.close()
    for process in multiprocessing.active_children():
        process.join(10)
    assert (
        not multiprocessing.active_children()
    )  # else Python would wait for it at its end, for as long as the disk hangs


def reads_until(step, hang):
    """What makes batches: those before that step come, the others call `hang` first."""
    read = Samples.__getitems__

    def hanging(self, draws):
        if draws[0].seed[-2] >= step:
            hang()
        return read(self, draws)

    return hanging


def deadlock():
    """Outside Python, where no signal handler of Python's is called."""
    library = ctypes.CDLL(None)
    mutex = ctypes.create_string_buffer(256)
    library.pthread_mutex_lock(mutex)
    library.pthread_mutex_lock(mutex)


HANGS = {"in Python": lambda: time.sleep(600), "outside Python": deadlock}


@pytest.fixture
def hung(phantom_root, tmp_path, monkeypatch):
    """A run whose third batch does not come."""
    begun = []

    def begin(how, workers):
        marker = tmp_path / "hangs"

        def hang():
            marker.touch()
            HANGS[how]()

        monkeypatch.setattr(Samples, "__getitems__", reads_until(2, hang))
        numbers = {**NUMBERS, "num_workers": workers, "pre_iterations": 30}
        child = Forked(lambda: helpers.train(DATASET, phantom_root, tmp_path / "out", **numbers))
        begun.append(child)
        child.wait(lambda: marker.exists() and "pre_train 2/30: val Dice" in child.said)
        return child

    yield begin
    for child in begun:
        child.kill()


@pytest.mark.parametrize(
    "how, workers, number",
    [
        ("in Python", 2, signal.SIGTERM),
        ("outside Python", 1, signal.SIGTERM),
        ("in Python", 0, signal.SIGTERM),
        ("in Python", 1, signal.SIGINT),
    ],
)
def test_a_signal_saves_within_ten_seconds_where_a_batch_does_not_come(
    hung, tmp_path, how, workers, number
):
    child = hung(how, workers)
    began = time.monotonic()
    ended = child.stop(number)
    assert time.monotonic() - began < 10
    assert ended.status == 128 + number, ended.said
    assert "stopped at iteration 2 of pre_train, saved" in ended.said.splitlines()[-1]
    assert stages(tmp_path / "out")["pre_train/last.pth"]["progress"]["step"] == 2


def test_sigterm_ends_a_run_within_ten_seconds_that_reads_outside_python_itself(hung):
    """Nothing can be saved: the thread that could is the one that hangs."""
    child = hung("outside Python", 0)
    began = time.monotonic()
    ended = child.stop(signal.SIGTERM)
    assert time.monotonic() - began < 10
    assert ended.status == 128 + signal.SIGTERM
    assert "the last checkpoint is kept: the same command continues" in ended.said.splitlines()[-1]


def test_a_second_interrupt_ends_a_run_that_hangs_anywhere(phantom_root, tmp_path, at_step):
    """In the middle of a step, say, outside Python."""
    marker = tmp_path / "hangs"

    def hang():
        marker.touch()
        deadlock()

    at_step(1, hang)
    child = Forked(lambda: helpers.train(DATASET, phantom_root, tmp_path / "out", **NUMBERS))
    child.wait(marker.exists)
    began = time.monotonic()
    os.kill(child.process.pid, signal.SIGINT)
    time.sleep(0.3)
    ended = child.stop(signal.SIGINT)
    assert time.monotonic() - began < 10 and ended.status == 128 + signal.SIGINT, ended.said


def test_a_signal_during_a_step_is_obeyed_after_it(phantom_root, tmp_path, at_step):
    """However long it takes: here longer than a batch may."""

    def slow():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(2.5 * GRACE)

    at_step(1, slow)
    with pytest.raises(Interrupted, match="stopped at iteration 2 of pre_train, saved"):
        helpers.train(DATASET, phantom_root, tmp_path, **NUMBERS)


# shared memory


class Small(Stuck):
    def __getitems__(self, drawn):
        return {"image": torch.zeros(1, 1, 4, 4)}


def test_a_batch_that_finds_no_shared_memory_is_one_line_at_once(monkeypatch):
    """torch prints a traceback in the process that made it, and the main one waits for ever."""

    def refuse(tensor):
        raise RuntimeError(
            "unable to allocate shared memory(shm) for file </torch_1>: No space left (28)"
        )

    monkeypatch.setattr(torch.Tensor, "share_memory_", refuse)
    source = batches_of(Small())
    words = r"^/dev/shm is full; .*\. Use --num_workers 0, or .*--shm-size 1g\); the last checkpoint is kept$"
    with pytest.raises(UserError, match=words), as_user_error(torch.device("cpu"), 2):
        source.next()
    source.close()


def test_a_process_that_died_of_full_shared_memory_is_told_as_such():
    """As older versions of torch have it."""
    text = (
        "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that "
        "dataloader's workers are out of shared memory. "
        "Please try to raise your shared memory limit."
    )
    words = r"^/dev/shm is full.*--num_workers 0"
    with pytest.raises(UserError, match=words), as_user_error(torch.device("cpu"), 2):
        raise RuntimeError(text)


@pytest.mark.parametrize("free", [0, 2**16, 2**20, 3 * 2**20])
def test_too_little_shared_memory_is_refused_before_a_process_starts(monkeypatch, free):
    """Two batches of the one process and one in use, of 1.25 MiB each: 3.75 MiB."""
    monkeypatch.setattr("utils.shared_memory.free_bytes", lambda: free)
    words = r"^--num_workers 1: .* up to 4\.0 MB of shared memory, .*; use --num_workers 0, or .*--shm-size"
    with pytest.raises(UserError, match=words):
        batches.check_shared_memory(OneWorker(), torch.device("cpu"), 1)


@pytest.mark.parametrize("free", [None, 2**22])
def test_enough_shared_memory_is_taken(monkeypatch, free):
    monkeypatch.setattr("utils.shared_memory.free_bytes", lambda: free)
    batches.check_shared_memory(OneWorker(), torch.device("cpu"), 1)


def test_no_shared_memory_is_needed_without_processes(monkeypatch):
    monkeypatch.setattr("utils.shared_memory.free_bytes", lambda: 0)
    batches.check_shared_memory(OneWorker(num_workers=0), torch.device("cpu"), 1)


def test_no_room_for_a_lock_between_processes_is_one_line(monkeypatch):
    def refuse(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("multiprocessing.context.BaseContext.Lock", refuse)
    with (
        pytest.raises(UserError, match=r"^/dev/shm: no room for locks .*--shm-size"),
        worker_pool(1),
    ):
        pass


def test_a_process_that_cannot_be_started_is_no_reader_that_has_gone(capsys):
    """Both are broken pipes; the first one ended the script with status 1 and not a word."""

    def main(argv):
        raise BrokenPipeError(32, "Broken pipe")

    with pytest.raises(SystemExit) as stop:
        run(main)
    assert stop.value.code == 2 and capsys.readouterr().err.startswith(
        "error: a process that was started cannot run; "
    )
