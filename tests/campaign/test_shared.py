"""Little shared memory, and predictors that share a folder."""

import ctypes
import os
import subprocess
import sys
import time
from functools import partial

import pytest
from campaign.works import SLICES, train
from forked import Forked
from scripts import predict

from datasets import acdc

pytestmark = pytest.mark.campaign

NEW_MOUNTS = 0x20000  # CLONE_NEWNS


def with_shared_memory(size, work):
    """`work` in a process that has a /dev/shm of its own, of that size."""
    library = ctypes.CDLL(None, use_errno=True)
    if library.unshare(NEW_MOUNTS):
        raise OSError(ctypes.get_errno(), "unshare")
    commands = (
        ["mount", "--make-rprivate", "/"],
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", "/dev/shm"],
    )
    for command in commands:
        subprocess.run(command, check=True)
    work()


@pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="only root can mount a disk"
)
@pytest.mark.parametrize("checked", [True, False], ids=["refused", "met later"])
def test_small_shared_memory(checked, phantom_root, tmp_path, tally, monkeypatch):
    """One line with the remedy within 30 seconds, whether or not the room is looked at first."""
    if not checked:
        monkeypatch.setattr("commands.batches.check_room", lambda *_: None)
    numbers = {
        **SLICES,
        "patch_size": (256, 256),
        "batch_size": 8,
        "labeled_bs": 4,
        "num_workers": 2,
    }
    for size in ("64k", "1m", "3m"):
        run = partial(train, acdc.DATASET, numbers, phantom_root, tmp_path / size)
        began = time.monotonic()
        ended = Forked(partial(with_shared_memory, size, run)).ended(100)
        seconds = time.monotonic() - began
        said = ended.said.strip().splitlines()[-1:]
        good = ended.status == 2 and ended.clean and seconds < 30
        tally.note(
            good and "--shm-size" in ended.said, f"{size}: {ended.status} {seconds:.0f} s {said}"
        )


def test_two_predictors_of_one_folder(raw, network, tmp_path, tally, number):
    """Two parts work together; of two that predict the whole folder, one is refused or comes when
    the other is done.
    """
    for index in range(number(4)):
        flags = ["--checkpoint", str(network), "--input", str(raw / "imagesTs"), "--device", "cpu"]
        flags += ["--output", str(tmp_path / str(index))]
        for parts in (["1/2", "2/2"], [None, None]):
            both = [
                Forked(partial(predict, [*flags, *(["--part", part] if part else [])]))
                for part in parts
            ]
            ended = [child.ended() for child in both]
            refused = [one for one in ended if one.status == 2 and "is writing to it" in one.said]
            fine = all(one.clean for one in ended) and len(refused) <= (parts[0] is None)
            served = sum(one.status == 0 for one in ended) == 2 - len(refused)
            left = list((tmp_path / str(index)).rglob(".unfinished*"))
            tally.note(fine and served and not left, str([one.said[-300:] for one in ended]))
