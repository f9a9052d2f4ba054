"""Faults that end a training from outside, each reported in one line.

They come from memory, from the processes that prepare batches, and from other processes of the run.
"""

import re
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager

import torch

from utils.errors import UserError
from utils.shared_memory import MORE, PLACE

MEMORY = ("out of memory", "can't allocate memory", "unable to allocate")
LOADER_TIMEOUT = 1800  # seconds that a batch may take, even from a slow disk
SILENT = 600  # seconds without a step before a warning
KEPT = "the last checkpoint is kept"


@contextmanager
def as_user_error(device: torch.device, dims: int) -> Generator[None, None, None]:
    """Within the context, turn errors of torch that the user can fix into a UserError."""
    try:
        yield
    except UserError as error:
        # A process that prepares batches puts its traceback around the message.
        line = re.split(r"\bUserError: ", str(error).strip())[-1]
        raise UserError(line) from None
    except (RuntimeError, MemoryError) as error:
        explained = _explanation(error, device, dims)
        if explained is None:
            raise
        raise UserError(f"{explained}; {KEPT}") from None


def _explanation(error: Exception, device: torch.device, dims: int) -> str | None:
    """Return cause and remedy of an error; None for one that is not known here."""
    text = str(error)
    if "shared memory" in text.lower():
        return (
            f"{PLACE} is full; the processes that prepare batches pass the batches through it. "
            f"Use --num_workers 0, or {MORE}"
        )
    if isinstance(error, MemoryError) or any(words in text.lower() for words in MEMORY):
        recompute = ""
        if dims == 3:
            recompute = ", or use --recompute"
        return (
            f"{device} is out of memory: lower --batch_size and --labeled_bs, or "
            f"--patch_size{recompute}"
        )
    if "DataLoader timed out" in text:
        return (
            f"no batch for {LOADER_TIMEOUT // 60} minutes, a disk or a process hangs: "
            "check the disk, or use --num_workers 0"
        )
    if "DataLoader worker" in text:
        return (
            "a process that prepares batches ended unexpectedly (no memory left?): "
            "lower --num_workers"
        )
    return None


class Watch:
    """Warns each time that no step has ended for `silent` seconds."""

    def __init__(self, say: Callable[[str], None], stage: str, silent: float = SILENT) -> None:
        """Start the watching thread, from which `say` is called."""
        self._say = say
        self._stage = stage
        self._silent = silent
        self._step_ended = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def beat(self) -> None:
        """Note that a step has ended."""
        self._step_ended.set()

    def close(self) -> None:
        """End the thread."""
        self._closed = True
        self._step_ended.set()
        self._thread.join(5)

    def _run(self) -> None:
        quiet = 0.0
        while not self._closed:
            if self._step_ended.wait(self._silent):
                quiet = 0.0
            else:
                quiet += self._silent
            self._step_ended.clear()
            if quiet and not self._closed:
                self._say(
                    f"warning: {self._stage}: no step has ended for {quiet / 60:.0f} minutes. "
                    "Validation may take as long; otherwise a disk or another process of the run "
                    "hangs. Ctrl-C saves as soon as the step has ended, or at once if no batch "
                    f"comes; a second Ctrl-C ends the run within seconds, {KEPT}"
                )
