"""Warns if steps take much longer than they did, with the probable reason."""

import os
import statistics
import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager

WINDOW = 20  # steps; one pause does not make a window slow
SLOW = 3.0  # times the fastest window; noise of a shared machine stays below


def last_warning(slowdown: float, warned: float) -> float:
    """Return the slowdown of the last warning, 1 if there is none or steps have recovered since.

    `slowdown`: how many times longer a step takes now than in the fastest window. `warned`: the
    result of the last call. A result above `warned` means that a warning is due: at `SLOW`, again
    when it has become twice as bad, and again after a recovery.
    """
    if slowdown < SLOW / 2:
        return 1.0
    if slowdown >= SLOW and slowdown >= 2 * warned:
        return slowdown
    return warned


def reason(waiting: float, load: float, cores: int) -> str:
    """Return why steps may be slow.

    `waiting`: share of their time spent waiting for batches. `load`: load average of the machine.
    """
    if waiting > 0.5:
        return f"{waiting:.0%} of it waits for batches: check the disk, or raise --num_workers"
    if load > cores + 0.5:
        return (
            f"{load:.0f} threads share this machine's {cores} cores: end other work, or limit "
            "each run with OMP_NUM_THREADS"
        )
    return "other work on the device, a hot processor, or memory that is swapped out?"


def load_average() -> float:
    """Return the machine's load average of the last minute, 0 where the system has none."""
    if hasattr(os, "getloadavg"):
        return os.getloadavg()[0]
    return 0.0


class Pace:
    """Times steps without validations.

    It warns if the median of `WINDOW` steps is `SLOW` times that of the fastest window.
    """

    def __init__(self, say: Callable[[str], None], stage: str) -> None:
        """`say` receives the warnings about the stage of that name."""
        self._say = say
        self._stage = stage
        self._steps: deque[float] = deque(maxlen=WINDOW)  # seconds per step
        self._waits: deque[float] = deque(maxlen=WINDOW)  # seconds of it waiting for the batch
        self._fastest = float("inf")
        self._warned = 1.0
        # since the device was last waited for
        self._new_waits: list[float] = []
        self._new_seconds = 0.0

    @contextmanager
    def timed(self) -> Generator[None, None, None]:
        """Surround a step."""
        began = time.monotonic()
        yield
        self._new_seconds += time.monotonic() - began

    @contextmanager
    def waiting(self) -> Generator[None, None, None]:
        """Surround, within a step, the wait for its batch."""
        began = time.monotonic()
        yield
        self._new_waits.append(time.monotonic() - began)

    def judge(self) -> None:
        """Warn if steps have become slow.

        Call it when the device has been waited for: only then it is known how long steps took.
        """
        count = len(self._new_waits)
        self._steps.extend([self._new_seconds / count] * count)
        self._waits.extend(self._new_waits)
        self._new_waits = []
        self._new_seconds = 0.0
        if len(self._steps) < WINDOW:
            return
        seconds = statistics.median(self._steps)
        self._fastest = min(self._fastest, seconds)
        before = self._warned
        self._warned = last_warning(seconds / self._fastest, before)
        if self._warned > before:
            waiting = sum(self._waits) / sum(self._steps)
            cause = reason(waiting, load_average(), os.cpu_count() or 1)
            self._say(
                f"warning: {self._stage}: a step takes {seconds:.2g} s now, "
                f"{self._fastest:.2g} s at its fastest; {cause}"
            )
