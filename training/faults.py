"""What ends a training from outside, each in one line: memory, the processes that prepare batches, the other processes of the run."""

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from utils.errors import UserError
from utils.shared_memory import MORE, PLACE

MEMORY = ("out of memory", "can't allocate memory", "unable to allocate")
LOADER_TIMEOUT = (
    1800  # seconds that a batch may take: slow disks are slow, but none is as slow as that
)
SILENT = 600


@contextmanager
def told(device: torch.device, dims: int) -> Iterator[None]:
    """Turn what torch raises for these into a UserError."""
    try:
        yield
    except (
        UserError
    ) as error:  # from a process that prepares batches it comes with that one's traceback around it
        line = re.split(r"\bUserError: ", str(error).strip())[-1]
        raise UserError(line) from None
    except (RuntimeError, MemoryError) as error:
        text = str(error)
        if "shared memory" in text.lower():
            raise UserError(
                f"{PLACE} is full, through which the processes that prepare batches pass them on: use --num_workers 0, or {MORE}; "
                "the last checkpoint is kept"
            ) from None
        if isinstance(error, MemoryError) or any(words in text.lower() for words in MEMORY):
            raise UserError(
                f"{device} is out of memory: lower --batch_size and --labeled_bs, or --patch_size"
                f"{', or use --recompute' if dims == 3 else ''}; the last checkpoint is kept"
            ) from None
        if "DataLoader timed out" in text:
            raise UserError(
                f"no batch for {LOADER_TIMEOUT // 60} minutes, a disk or a process hangs: look at the disk, or use --num_workers 0; the "
                "last checkpoint is kept"
            ) from None
        if "DataLoader worker" in text:
            raise UserError(
                "a process that prepares batches ended unexpectedly (no memory left?): lower --num_workers; the last checkpoint is kept"
            ) from None
        raise


class Watch:
    """Says so each time that nothing has happened for `silent` seconds; `beat` when something has."""

    def __init__(self, say: Callable[[str], None], what: str, silent: float = SILENT):
        self._say, self._what, self._silent = say, what, silent
        self._beaten, self._closed = threading.Event(), False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def beat(self) -> None:
        self._beaten.set()

    def close(self) -> None:
        self._closed = True
        self._beaten.set()
        self._thread.join(5)

    def _run(self) -> None:
        quiet = 0.0
        while not self._closed:
            quiet = 0.0 if self._beaten.wait(self._silent) else quiet + self._silent
            self._beaten.clear()
            if quiet and not self._closed:
                self._say(
                    f"warning: {self._what}: no step has ended for {quiet / 60:.0f} minutes; validation may take as long, else a disk or "
                    "another process of the run hangs. Ctrl-C saves as soon as the step has ended, or at once where a batch does not "
                    "come; a second Ctrl-C ends the run within seconds, the last checkpoint is kept"
                )
