"""Work done in a forked process, to be killed, starved of disk, or fed with rubbish; torch is loaded once for all of them."""

import io
import multiprocessing
import os
import resource
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from utils.cli import run


@dataclass(frozen=True)
class Ended:
    """`status`: as a shell has it, negative for a signal; `said`: everything printed."""

    status: int | None
    said: str

    @property
    def clean(self) -> bool:
        """Done, or one line and status 2."""
        lines = self.said.splitlines()
        return self.status == 0 or (self.status == 2 and "Traceback" not in self.said and lines[-1].startswith("error: "))


class Forked:
    """`work` as a script would run it, in a process of its own; `seconds` until it is ended if it does not end by itself."""

    def __init__(self, work: Callable[[], object], file_size: int | None = None):
        self._said = tempfile.NamedTemporaryFile("w+", encoding="utf-8", suffix=".txt", delete=False)  # noqa: SIM115

        def child() -> None:
            sys.stdout = sys.stderr = io.TextIOWrapper(io.FileIO(self._said.name, "w"), encoding="utf-8", write_through=True)
            torch.set_num_threads(1)
            if file_size is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
            run(work)

        self.process = multiprocessing.get_context("fork").Process(target=child)
        self.process.start()

    def ended(self, seconds: float = 600) -> Ended:
        self.process.join(seconds)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
            return Ended(None, "hung")
        said = Path(self._said.name).read_text(encoding="utf-8", errors="replace")
        os.unlink(self._said.name)
        self._said.close()
        return Ended(self.process.exitcode, said)
