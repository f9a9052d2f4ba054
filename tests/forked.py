"""Work done in a forked process, to be stopped, killed, starved of disk, or fed with rubbish; torch
is loaded once for all of them.
"""

import io
import multiprocessing
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from tqdm import tqdm

from utils.cli import run


@dataclass(frozen=True)
class Ended:
    """`status`: as a shell has it, negative for a signal; `said`: everything printed."""

    status: int | None
    said: str

    @property
    def clean(self) -> bool:
        """Done, or one line and status 2."""
        last = (
            self.said.splitlines()[-1] if self.said else ""
        )  # progress bars go back to the start of their line
        return "Traceback" not in self.said and (
            self.status == 0 or (self.status == 2 and last.startswith("error: "))
        )


class Forked:
    """`work` as a script would run it, in a process and a group of its own; `file_size`: the most
    that a file may hold, a full disk beyond it. It hears SIGINT, which a shell that runs the tests
    in the background hands down ignored.
    """

    def __init__(self, work: Callable[[], object], file_size: int | None = None) -> None:
        self._heard, tell = os.pipe()  # no file: a full disk must not silence it
        self._said: list[bytes] = []

        def child() -> None:
            os.setsid()
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.dup2(tell, 1)
            os.dup2(tell, 2)
            sys.stdout = sys.stderr = io.TextIOWrapper(
                io.FileIO(1, "w", closefd=False), encoding="utf-8", write_through=True
            )
            tqdm.set_lock(
                threading.RLock()
            )  # its own is shared by all forked processes: one that is killed may hold it for ever
            torch.set_num_threads(1)
            if file_size is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
            run(lambda argv: done if isinstance(done := work(), int) else 0)

        self.process = multiprocessing.get_context("fork").Process(target=child)
        self.process.start()
        os.close(tell)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        while heard := os.read(self._heard, 2**16):
            self._said.append(heard)
        os.close(self._heard)

    @property
    def said(self) -> str:
        return b"".join(self._said).decode("utf-8", "replace")

    def wait(self, there: Callable[[], object]) -> None:
        """Until `there()`, while it is at work."""
        while not there():
            assert self.process.is_alive(), self.said
            time.sleep(0.02)

    def stop(self, number: int, group: bool = False) -> Ended:
        """Send that signal, with `group` to its own processes too."""
        (os.killpg if group else os.kill)(self.process.pid, number)
        return self.ended(100)

    def kill(self) -> None:
        self.process.kill()
        self.process.join()

    def ended(self, seconds: float = 600) -> Ended:
        """What became of it; after `seconds` it counts as hung."""
        self.process.join(seconds)
        if self.process.is_alive():
            self.kill()
            return Ended(None, "hung")
        self._listener.join(30)
        return Ended(self.process.exitcode, self.said)
