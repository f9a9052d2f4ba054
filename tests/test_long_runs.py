"""What befalls a run that takes days or several processes: signals, hangs, a peer that dies, a file
that vanishes.
"""

import multiprocessing
import os
import signal
import threading
import time
from types import SimpleNamespace

import helpers
import pytest
import torch
from helpers import assert_same, stages, together

from datasets.acdc import DATASET
from methods.bcp import BCPPretrain
from methods.edge_guided import DualTeacher
from training.log import hours
from training.outside_faults import Watch, as_user_error
from training.pace import Pace, last_warning, reason
from training.signals import StopSignals
from utils.errors import Interrupted, UserError
from utils.workers import terminated

pytestmark = pytest.mark.usefixtures("narrow")

NUMBERS = {
    "patch_size": (32, 32), "egm": "none", "batch_size": 8, "labeled_bs": 4, "pre_iterations": 3, "max_iterations": 6, "val_every": 3,
    "static_start": 2, "static_step": 1, "static_range": (1, 4), "labelnum": 1,
}  # fmt: skip


def test_days_are_printed_as_hours():
    assert [hours(seconds) for seconds in (0, 3599.9, 86_399, 86_400, 360_000)] == [
        "00:00:00",
        "00:59:59",
        "23:59:59",
        "24:00:00",
        "100:00:00",
    ]


def test_the_end_of_the_terminal_saves_as_sigterm_does_but_not_under_nohup():
    before = signal.signal(
        signal.SIGHUP, signal.SIG_DFL
    )  # these tests may run under nohup themselves
    try:
        with StopSignals() as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            assert signals.received == signal.SIGHUP
        with pytest.raises(Interrupted) as stopped, terminated():
            os.kill(os.getpid(), signal.SIGHUP)
        assert stopped.value.status == 129
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with StopSignals() as signals, terminated():
            os.kill(os.getpid(), signal.SIGHUP)
            assert signals.received == 0
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    "error, says",
    [
        (
            RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"),
            "a process that prepares batches ended unexpectedly .*num_workers",
        ),
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "),
            "ended unexpectedly",
        ),
        (RuntimeError("DataLoader timed out after 1800 seconds"), "no batch for 30 minutes"),
        (MemoryError("Unable to allocate 3 TiB for an array"), "out of memory: lower --batch_size"),
        (
            UserError(
                "Caught UserError in DataLoader worker process 0.\nOriginal Traceback:\n  "
                "x\nutils.errors.UserError: a.h5: no such file\n"
            ),
            "^a.h5: no such file$",
        ),
    ],
)
def test_what_ends_a_training_from_outside_is_one_line(error, says):
    with pytest.raises(UserError, match=says) as caught, as_user_error(torch.device("cpu"), 2):
        raise error
    assert str(caught.value).isprintable()


def test_an_error_of_ours_is_not_explained_away():
    with pytest.raises(RuntimeError, match="shapes"), as_user_error(torch.device("cpu"), 2):
        raise RuntimeError("shapes do not match")


def test_a_file_that_vanishes_while_a_worker_reads_it_is_one_line(la_root, tmp_path):
    import shutil

    from datasets import la

    root = shutil.copytree(la_root, tmp_path / "data")
    numbers = {
        "egm": "none", "patch_size": (32, 16, 16), "batch_size": 4, "labeled_bs": 2, "pre_iterations": 2, "max_iterations": 2,
        "val_every": 2, "val_stride": (32, 16, 16), "labelnum": 2, "cache": "none", "num_workers": 1, "run_mode": "pretrain",
    }  # fmt: skip
    path = la.DATASET.info.path(root, (root / "train.list").read_text().split()[0])
    begin = BCPPretrain.begin
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BCPPretrain, "begin", lambda phase: (path.unlink(), begin(phase))[1])
        with pytest.raises(
            UserError, match=r"mri_norm2.h5: no such file, though a case list names it$"
        ) as caught:
            helpers.train(la.DATASET, root, tmp_path / "out", **numbers)
    assert (
        caught.traceback and not multiprocessing.active_children()
    )  # else Python would wait for the worker for ever


def test_a_hang_is_told_until_it_is_over():
    said, told_twice = [], threading.Event()

    def say(line):
        said.append(line)
        if len(said) == 2:
            told_twice.set()

    watch = Watch(say, "self_train", silent=0.02)
    assert told_twice.wait(20) and "self_train: no step has ended for" in said[0]
    watch.close()
    count = len(said)
    time.sleep(0.1)
    assert len(said) == count
    busy = Watch(said.append, "x", silent=600)
    busy.beat()
    busy.close()
    assert len(said) == count


def test_a_slow_pace_is_told_once_and_again_when_it_is_worse_or_comes_back():
    told, lines = 1.0, []
    for times in (1.0, 2.9, 3.1, 4.0, 6.1, 6.3, 13.0, 2.0, 3.5, 1.2, 3.5):
        before, told = told, last_warning(times, told)
        if told > before:
            lines.append(times)
    assert lines == [3.1, 6.3, 13.0, 3.5]  # 2.0 is no recovery, 1.2 is


def test_why_steps_may_be_slow():
    assert "waits for batches" in reason(
        waiting=0.6, load=9, cores=2
    ) and "--num_workers" in reason(0.6, 9, 2)
    assert "9 threads share this machine's 2 cores" in reason(waiting=0.1, load=9, cores=2)
    assert "hot" in reason(waiting=0.1, load=2, cores=2)


def test_steps_that_become_slow_are_told_by_their_median(monkeypatch):
    now, said = [0.0], []
    monkeypatch.setattr("training.pace.time", SimpleNamespace(monotonic=lambda: now[0]))
    pace = Pace(said.append, "self_train")

    def steps(count, seconds, every=1):
        for step in range(count):
            with pace.timed():
                with pace.waiting():
                    now[0] += 0.8 * seconds
                now[0] += 0.2 * seconds
            if step % every == every - 1:
                pace.judge()

    steps(1, 90.0)  # compiling
    steps(40, 0.5)
    now[0] += 1000.0  # a validation
    steps(8, 60.0)  # a pause of a few steps
    steps(40, 0.5)
    assert not said
    steps(20, 2.0, every=10)  # a device that is waited for every 10 steps
    assert len(said) == 1 and said[0].startswith(
        "warning: self_train: a step takes 2 s now, 0.5 s at its fastest; 80% of it waits"
    )


# several processes


def stop_at(phase, step, what):
    """After that step of the phase `what` is called."""
    after_step = phase.after_step

    def after(self, at):
        after_step(self, at)
        if at == step:
            phase.after_step = after_step
            what()

    phase.after_step = after


def train_at(port, root, output):
    """Meet at a port of its own: the earlier call's may still be open, and be taken for this one's."""
    os.environ["MASTER_PORT"] = str(port)
    helpers.train(DATASET, root, output, **NUMBERS)


def _interrupted(rank, ports, root, output):
    train_at(ports[0], root, output / "whole")
    for phase, step, port in ((BCPPretrain, 0, ports[1]), (DualTeacher, 3, ports[2])):
        if rank == 0:
            stop_at(phase, step, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Interrupted):
            train_at(port, root, output / "stopped")
    train_at(ports[3], root, output / "stopped")


@pytest.mark.long
def test_two_processes_stopped_between_validations_end_bit_for_bit_where_they_would_have(
    phantom_root, tmp_path
):
    """Each has batch-norm statistics of its own there, teachers of both: they were averaged, and
    the main process's taken for all.
    """
    assert together(_interrupted, phantom_root, tmp_path) == [0, 0]
    assert_same(stages(tmp_path / "stopped"), stages(tmp_path / "whole"))
    first, second = stages(tmp_path / "whole")["self_train/last.pth"]["buffers"]
    assert any(
        not torch.equal(first["ema_teacher"][key], second["ema_teacher"][key])
        for key in first["ema_teacher"]
    )


def _deserted(rank, ports, root, output):
    if rank == 1:
        stop_at(BCPPretrain, 0, lambda: os._exit(9))
    with pytest.raises(
        UserError,
        match=r"another process of this run has ended; the last checkpoint is kept: start the same command again$",
    ):
        train_at(ports[0], root, output)


def test_the_others_end_with_one_line_when_a_process_dies(phantom_root, tmp_path):
    began = time.monotonic()
    assert together(_deserted, phantom_root, tmp_path) == [0, 9]
    assert time.monotonic() - began < 300  # gloo itself would wait for half an hour
