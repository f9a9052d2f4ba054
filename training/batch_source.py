"""The batches of a loader, whose processes end when they are no longer needed."""

import multiprocessing
import signal
import threading
import traceback
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager

from methods.base import Batch
from utils.errors import UserError
from utils.shared_memory import MORE, PLACE

PATIENCE = 2.0  # seconds in which the processes may end by themselves


class BatchSource:
    """An iterator of batches that can be closed.

    The processes of a torch DataLoader ignore signals here, so that the main process decides when
    they end. One that hangs in a read would keep Python from ending.
    """

    def __init__(self, batches: Iterable[Batch]) -> None:
        """Start the processes.

        Raises UserError if there is no shared memory for the locks between them.
        """
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
                f"the processes that prepare batches could not be started "
                f"({fault.strerror or fault}), {PLACE} may be full: use --num_workers 0, or {MORE}"
            ) from None

    def next(self) -> Batch:
        """Return the next batch. Raises what the loader raises."""
        try:
            return next(self._batches)
        except BaseException as error:
            # the frames would keep the loader alive
            traceback.clear_frames(error.__traceback__)
            raise

    def close(self) -> None:
        """End the processes that prepare batches within seconds, by force if necessary."""
        with _worker_deaths_ignored():
            timer = threading.Timer(PATIENCE, self._kill)
            timer.start()
            # the loader is freed: it asks its processes to end and waits for them
            self._batches = iter(())
            timer.cancel()
            self._kill()
            for process in self._processes:
                process.join(PATIENCE)

    def _kill(self) -> None:
        for process in self._processes:
            process.kill()


@contextmanager
def _worker_deaths_ignored() -> Generator[None, None, None]:
    """Within the context, a process that ends is no fault.

    Outside of it, torch's handler of SIGCHLD raises an error for each process that was killed.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD"):
        yield
        return
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)
