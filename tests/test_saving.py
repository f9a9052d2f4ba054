"""Checkpoints written in a thread, once for two names: what is in them, and what a crash at any
moment leaves.
"""

import os
import threading

import pytest
import torch
from helpers import assert_same
from torch import nn

import training.checkpoint
from training.checkpoint import FORMAT, Store, load
from training.loop import Progress
from training.saving import Saver, snapshot
from utils.errors import UserError
from utils.files import remove_unfinished

pytestmark = pytest.mark.usefixtures("narrow")


def content(step: int) -> dict:
    progress = vars(Progress(step=step, validated=step))
    rest = {
        "settings": {},
        "facts": {"name": "ACDC"},
        "stage": "stage",
        "selection": "",
        "progress": progress,
        "losses": [],
        "phase": {},
    }
    return {
        "format": FORMAT,
        "student": {"w": torch.full((4,), float(step))},
        "optimizer": {},
        **rest,
    }


@pytest.fixture
def store(tmp_path):
    (tmp_path / "stage").mkdir()
    return Store(tmp_path / "stage", "best.pth", {}, {})


def test_a_checkpoint_is_what_the_networks_were_when_it_was_asked_for(store, monkeypatch):
    """The weights go on changing in place while the thread has not even begun to write."""
    net, go = nn.BatchNorm1d(3), threading.Event()
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    write = torch.save

    def step():
        net(torch.randn(4, 3)).square().sum().backward()
        optimizer.step()

    monkeypatch.setattr(
        training.checkpoint.torch, "save", lambda *given: go.wait(60) and write(*given)
    )
    step()
    saved = {
        **content(1),
        "student": net.state_dict(),
        "optimizer": optimizer.state_dict(),
        "losses": [0.5],
    }
    before = snapshot(saved)
    saver = Saver(store)
    saver.save(saved, best=True)
    for _ in range(3):
        step()
    saved["losses"].append(0.25)
    go.set()
    saver.wait()
    assert_same(load(store.last), before)
    assert not torch.equal(load(store.last)["student"]["running_mean"], net.running_mean)
    assert net.state_dict()._metadata == before["student"]._metadata
    saver.close()


def test_one_serialisation_makes_two_files(store, monkeypatch):
    writes, write = [], torch.save
    monkeypatch.setattr(
        training.checkpoint.torch, "save", lambda *given: writes.append(1) or write(*given)
    )
    store.save(content(1), best=True)
    assert len(writes) == 1 and store.last.read_bytes() == store.best.read_bytes()
    store.best.write_bytes(b"published weights, copied over it")
    assert load(store.last)["progress"]["step"] == 1
    store.save(content(1), best=True)
    store.save(content(2), best=False)
    store.save(content(3), best=False)
    assert [
        load(path)["progress"]["step"] for path in (store.best, store.previous, store.last)
    ] == [1, 2, 3]
    assert {path.name for path in store.folder.iterdir()} == {
        "best.pth",
        "previous.pth",
        "last.pth",
    }


def test_copies_hold_what_was_saved_with_them(store):
    for step in (1, 2):
        store.save(content(step), best=False, copies=[store.validated(step)])
    steps = [
        load(store.folder / "validated" / f"{step}.pth")["progress"]["step"] for step in (1, 2)
    ]
    assert steps == [1, 2]


def test_what_goes_wrong_in_the_thread_is_told(store, monkeypatch):
    saver = Saver(store)
    saver.save(content(1), best=True)
    saver.wait()
    with monkeypatch.context() as patch:
        patch.setattr(
            training.checkpoint.torch,
            "save",
            lambda *given: (_ for _ in ()).throw(OSError(28, "No space left on device")),
        )
        saver.save(content(2), best=True)
        with pytest.raises(UserError, match=r"last\.pth: could not be written \(No space left"):
            saver.save(content(3), best=True)
    saver.check()  # it is reported once
    assert load(store.last)["progress"]["step"] == load(store.best)["progress"]["step"] == 1
    saver.close()


@pytest.mark.parametrize("best", [True, False])
def test_killed_between_any_two_operations_on_files(store, best):
    """A process of its own, ended before its n-th rename, flush or removal: the stage continues from
    step 2 or 3, and the best is whole.
    """
    store.save(content(1), best=True)
    store.save(content(2), best=True)
    left = []
    for number in range(20):
        child = os.fork()
        if not child:
            _end_before(number)
            store.save(content(3), best)
            os._exit(0)
        finished = os.waitpid(child, 0)[1] == 0
        said = []
        left.append(store.resume(said.append).progress["step"])
        assert load(store.best)["progress"]["step"] in ((2, 3) if best else (2,)) and not said
        if finished:
            break
        store.save(content(2), best=False)
    assert finished and left[0] == 2 and left[-1] == 3 and len(left) >= (6 if best else 4)
    remove_unfinished(store.folder)
    assert {path.name for path in store.folder.iterdir()} == {
        "best.pth",
        "previous.pth",
        "last.pth",
    }


def _end_before(number: int) -> None:
    """End this process at its n-th call, from 0, of a function that changes a folder or ends a
    write.
    """
    calls = []

    def ending(function):
        def counted(*given, **named):
            if len(calls) == number:
                os._exit(1)
            calls.append(function)
            return function(*given, **named)

        return counted

    for name in ("replace", "fsync", "unlink"):
        setattr(os, name, ending(getattr(os, name)))
