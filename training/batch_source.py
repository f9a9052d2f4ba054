"""The batches of a loader, whose processes end when they are no longer needed, whatever they are doing."""

import multiprocessing
import signal
import threading
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from methods.base import Batch
from utils.errors import UserError
from utils.shared_memory import MORE, PLACE

PATIENCE = 2.0  # seconds that the processes have to end by themselves


class BatchSource:
    """An iterator of batches that can be closed.

    The processes of a torch DataLoader ignore signals here, so that the main process decides when they end. One that hangs in a read
    would keep Python from ending.
    """

    def __init__(self, batches: Iterable[Batch]):
        """Start the processes. Raises UserError where there is no shared memory for the locks between them."""
        earlier = set(multiprocessing.active_children())
        self._batches: Iterator[Batch] = iter(())
        fault: OSError | None = None
        try:
            self._batches = iter(batches)
        except OSError as error:
            fault = error
        self._processes = [
            process for process in multiprocessing.active_children() if process not in earlier
        ]
        if fault is not None:
            self.close()
            raise UserError(
                f"the processes that prepare batches could not be started ({fault.strerror or fault}), {PLACE} may be full: "
                f"use --num_workers 0, or {MORE}"
            ) from None

    def next(self) -> Batch:
        """The next batch. Raises what the loader raises."""
        try:
            return next(self._batches)
        except BaseException as error:
            traceback.clear_frames(error.__traceback__)  # they would keep the loader
            raise

    def close(self) -> None:
        """End the processes that prepare batches: within seconds, by force where they do not end by themselves."""
        with _deaths_ignored():
            timer = threading.Timer(PATIENCE, self._kill)
            timer.start()
            self._batches = iter(())  # the loader asks its processes to end, and waits for them
            timer.cancel()
            self._kill()
            for process in self._processes:
                process.join(PATIENCE)

    def _kill(self) -> None:
        for process in self._processes:
            process.kill()


@contextmanager
def _deaths_ignored() -> Iterator[None]:
    """Within the block, no process that ends is a fault: torch's handler raises an error for each that was killed."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD"):
        yield
        return
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)
