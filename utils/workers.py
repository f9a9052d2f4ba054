"""A pool of processes with one thread each, which ends with the process that made it."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from utils.errors import Interrupted, UserError
from utils.files import scratch
from utils.shared_memory import check_locks

START = "spawn"  # processes that load their libraries themselves, with one thread each
ONE_THREAD = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)


def check_processes(flag: str, count: int) -> None:
    """UserError for more processes than a machine of this size can do anything with."""
    most = max(64, 4 * (os.cpu_count() or 1))
    if count > most:
        raise UserError(
            f"--{flag} {count}: more processes than {os.cpu_count()} processors can use; give at most {most}"
        )


@contextmanager
def worker_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """A pool of `workers` processes. Where the block is left by an exception, Ctrl-C among them, they are ended at once."""
    check_locks(8)
    before = {key: os.environ.get(key) for key in (*ONE_THREAD, "TMPDIR")}
    with scratch("workers") as folder:
        # libraries read these when they are loaded, so they must be set before a process starts; what an ended process leaves goes too
        os.environ.update({**dict.fromkeys(ONE_THREAD, "1"), "TMPDIR": str(folder)})
        pool = ProcessPoolExecutor(
            workers, multiprocessing.get_context(START), initializer=_leave_signals_to_parent
        )
        try:
            yield pool
            pool.shutdown()
        except BaseException:
            processes, manager = (
                list((pool._processes or {}).values()),
                pool._executor_manager_thread,
            )
            pool.shutdown(wait=False, cancel_futures=True)
            for process in processes:
                process.terminate()
            for process in processes:
                process.join(10)
            if manager is not None:
                # one that closes its pipe while Python exits makes that fail (CPython 3.11)
                manager.join(10)  # pyright: ignore[reportAttributeAccessIssue]  # a thread; typeshed names another class
            raise
        finally:
            for key, value in before.items():
                if value is None:
                    os.environ.pop(key, None)
                else:
                    os.environ[key] = value


@contextmanager
def ended_processes(then: str = ", finished cases are kept") -> Iterator[None]:
    """A UserError where a process of the pool was killed, by a system out of memory for one; `then` ends its line."""
    try:
        yield
    except BrokenProcessPool:
        raise UserError(
            f"a process ended unexpectedly (no memory left?); run again with fewer --workers{then}"
        ) from None


@contextmanager
def terminated(then: str = "the same command continues") -> Iterator[None]:
    """A scheduler's SIGTERM, or the end of the terminal, ends the work as Ctrl-C does: with nothing half-written, and no process left
    behind; `then` is said. In another thread than the main one, which no signal reaches, nothing changes."""

    def stop(number: int, frame) -> None:
        raise Interrupted(f"terminated; {then}", 128 + number)

    numbers = [signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
    if threading.current_thread() is not threading.main_thread():
        numbers = []
    before = {
        number: signal.signal(number, stop)
        for number in numbers
        if signal.getsignal(number) != signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave_signals_to_parent() -> None:
    """Ctrl-C reaches every process of a terminal, but it is the parent that stops; and no process outlives a killed parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(
        target=_end_with, args=(multiprocessing.parent_process(),), daemon=True
    ).start()


def _end_with(parent) -> None:
    parent.join()
    os._exit(1)
