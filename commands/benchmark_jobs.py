"""Run the cells of a benchmark: in local processes, or as jobs of a cluster through submitit."""

import importlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.context import SpawnProcess
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol

from commands.benchmark_cell import Cell, complete_cell
from utils.cli import run
from utils.errors import UserError
from utils.messages import message
from utils.names import printable
from utils.workers import START, environment

POLL = 0.5
"""Seconds between two checks of the jobs."""
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Job(Protocol):
    """A cell that runs somewhere else."""

    def is_done(self) -> bool:
        """Whether the job has ended."""
        ...

    def exit_reason(self) -> str:
        """How the job ended, if it did not succeed; otherwise empty."""
        ...

    def stop(self) -> None:
        """Ask the job to save and to end."""
        ...

    def wait(self) -> None:
        """Return when the job has ended after `stop`."""
        ...


def run_cells(
    cells: Sequence[Cell],
    start: Callable[[Cell], Job],
    *,
    jobs: int,
    finished: Callable[[Cell, str], None],
) -> None:
    """Run the cells in their order, at most `jobs` at a time.

    `finished`: called when a cell has ended, with an empty text or the reason why it failed. If an
    exception comes (also Ctrl-C), all jobs save and end before it is raised.
    """
    waiting = list(cells)
    running: dict[str, tuple[Cell, Job]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                cell = waiting.pop(0)
                cell.log.parent.mkdir(parents=True, exist_ok=True)
                running[cell.name] = (cell, start(cell))
                message(printable(f"{cell.name}: started; its log is {cell.log}"))
            time.sleep(POLL)
            for name, (cell, job) in list(running.items()):
                if job.is_done():
                    del running[name]
                    finished(cell, _failure(cell, job))
    except BaseException:
        for _, job in running.values():
            job.stop()
        for _, job in running.values():
            job.wait()
        raise


def _failure(cell: Cell, job: Job) -> str:
    """Return why a cell failed: the last line of its log and how its process ended."""
    reason = job.exit_reason()
    if not reason:
        return ""
    lines: list[str] = []
    if cell.log.is_file():
        text = cell.log.read_text(encoding="utf-8", errors="replace")
        lines = [line for line in text.splitlines() if line.strip()]
    last = "no message"
    if lines:
        last = lines[-1].strip()
    return f"{last} ({reason}; all messages: {cell.log})"


# local processes


@dataclass(frozen=True)
class LocalJob:
    """A process of this machine."""

    process: SpawnProcess

    def is_done(self) -> bool:
        """Whether the process has ended."""
        return not self.process.is_alive()

    def exit_reason(self) -> str:
        """Exit status or signal of a process that failed."""
        status = self.process.exitcode or 0
        if status < 0:
            return f"ended by signal {-status}, perhaps for lack of memory"
        if status > 0:
            return f"exit status {status}"
        return ""

    def stop(self) -> None:
        """Send SIGTERM, after which training saves and ends."""
        self.process.terminate()

    def wait(self) -> None:
        """Wait for the process."""
        self.process.join()


def start_locally(cell: Cell, *, threads: int, test_selected: bool) -> LocalJob:
    """Start a process for the cell, which computes with `threads` threads."""
    context = multiprocessing.get_context(START)
    process = context.Process(target=_run_process, args=(cell, test_selected), name=cell.name)
    with environment(dict.fromkeys(THREADS, str(threads))):
        process.start()
    return LocalJob(process)


def _run_process(cell: Cell, test_selected: bool) -> None:
    """Run in the new process: complete the cell as a script would, and exit with its status."""
    parent = multiprocessing.parent_process()
    threading.Thread(target=_stop_with, args=(parent,), daemon=True).start()
    log_to(cell.log)
    run(lambda argv: complete_cell(cell, test_selected))


def _stop_with(parent: BaseProcess) -> None:
    """Wait for the parent to be killed, then end this process as SIGTERM does."""
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def log_to(path: Path) -> None:
    """Append all output of this process to a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)


# jobs of a cluster


@dataclass(frozen=True)
class CellTask:
    """What a job of a cluster calls. When its time is over, submitit queues it again."""

    cell: Cell
    test_selected: bool

    def __call__(self) -> None:
        """Complete the cell; its messages go to its log."""
        log_to(self.cell.log)
        complete_cell(self.cell, self.test_selected)

    def checkpoint(self) -> Any:
        """Return what continues this job."""
        return _submitit().helpers.DelayedSubmission(self)


@dataclass(frozen=True)
class ClusterJob:
    """A job that submitit has submitted."""

    job: Any

    def is_done(self) -> bool:
        """Whether the job has ended."""
        return self.job.done()

    def exit_reason(self) -> str:
        """State of a job that failed, and the last line of its error."""
        error = self.job.exception()
        if error is None:
            return ""
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return f"job {self.job.job_id}: {lines[-1].strip()}"

    def stop(self) -> None:
        """Cancel the job."""
        self.job.cancel()

    def wait(self) -> None:
        """A cancelled job ends by itself."""


def cluster_start(
    cluster: str,
    folder: Path,
    *,
    threads: int,
    parameters: Mapping[str, Any],
    test_selected: bool,
) -> Callable[[Cell], ClusterJob]:
    """Return a function that submits a cell to SLURM, or to submitit's local executor.

    `parameters`: of submitit's `AutoExecutor.update_parameters`, such as slurm_partition. Raises
    UserError if submitit is missing or does not accept them.
    """
    try:
        executor = _submitit().AutoExecutor(folder=folder, cluster=cluster)
        executor.update_parameters(**{"cpus_per_task": threads, **parameters})
    except (NameError, TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise UserError(
            f"--cluster {cluster}, --slurm: submitit refused them ({error}); correct these flags"
        ) from None
    return lambda cell: ClusterJob(executor.submit(CellTask(cell, test_selected)))


def _submitit() -> Any:
    """Import submitit, which only benchmarks on a cluster need."""
    try:
        return importlib.import_module("submitit")
    except ImportError:
        raise UserError("--cluster: needs the package submitit; pip install submitit") from None
