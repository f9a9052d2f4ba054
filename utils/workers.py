"""A pool of processes with one thread each, which ends with the process that started it."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from types import FrameType

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
    """Raise UserError for more processes than this machine can use."""
    most = max(64, 4 * (os.cpu_count() or 1))
    if count > most:
        raise UserError(
            f"--{flag} {count}: more processes than {os.cpu_count()} processors can use; "
            f"use at most {most}"
        )


@contextmanager
def worker_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool of `workers` processes.

    If an exception (also Ctrl-C) leaves the block, they are ended at once.
    """
    check_locks(8)
    # TMPDIR: temporary files of processes that are ended are deleted with the scratch folder.
    with (
        scratch("workers") as folder,
        environment({**dict.fromkeys(ONE_THREAD, "1"), "TMPDIR": str(folder)}),
    ):
        context = multiprocessing.get_context(START)
        pool = ProcessPoolExecutor(workers, context, initializer=_leave_signals_to_parent)
        try:
            yield pool
            pool.shutdown()
        except BaseException:
            processes = list((pool._processes or {}).values())
            manager = pool._executor_manager_thread
            pool.shutdown(wait=False, cancel_futures=True)
            for process in processes:
                process.terminate()
            for process in processes:
                process.join(10)
            if manager is not None:
                # Python's exit fails if this thread closes its pipe at that moment (CPython 3.11).
                manager.join(10)  # pyright: ignore[reportAttributeAccessIssue]
            raise


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Within the context, set environment variables, which processes that start there inherit.

    Libraries read numbers of threads when they are loaded, so these must be set before a process
    starts.
    """
    before = {key: os.environ.get(key) for key in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


@contextmanager
def ended_processes(then: str = ", finished cases are kept") -> Iterator[None]:
    """Raise UserError if a process of the pool was killed, for example for lack of memory.

    `then` ends its message.
    """
    try:
        yield
    except BrokenProcessPool:
        raise UserError(
            f"a process ended unexpectedly (no memory left?); run again with fewer --workers{then}"
        ) from None


@contextmanager
def terminated(then: str = "the same command continues") -> Iterator[None]:
    """Within the context, SIGTERM and the closing of the terminal raise Interrupted.

    Work then ends as with Ctrl-C: no incomplete file and no process remains. `then` ends the
    message. Only the main thread receives signals; in other threads this context changes nothing.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise Interrupted(f"terminated; {then}", 128 + number)

    numbers = []
    if threading.current_thread() is threading.main_thread():
        numbers = [signal.SIGTERM]
        if hasattr(signal, "SIGHUP"):  # Windows has none
            numbers.append(signal.SIGHUP)
    before = {}
    for number in numbers:
        if signal.getsignal(number) != signal.SIG_IGN:
            before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave_signals_to_parent() -> None:
    """Ignore Ctrl-C, because the parent ends its processes; end if the parent is killed.

    Ctrl-C reaches every process of a terminal.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: BaseProcess) -> None:
    """Wait for the parent to end, then end this process."""
    parent.join()
    os._exit(1)
