"""Notices that steps take longer than they did, and says what may be the reason."""

import os
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

WINDOW = 20  # steps; one pause is no slow pace
SLOW = 3.0  # times: noise of a shared machine stays below


def told_again(times: float, told: float) -> float:
    """What was told last, after a window that takes `times` as long as the fastest: `times` if it is news, 1 if steps are fast again.

    News is `SLOW` times as long, told once, and again when it has become twice as bad or after it had recovered.
    """
    if times < SLOW / 2:
        return 1.0
    return times if times >= SLOW and times >= 2 * told else told


def reason(waited: float, load: float, cores: int) -> str:
    """Why steps may be slow: the share of their time spent waiting for batches, the machine's load average and its cores."""
    if waited > 0.5:
        return f"{waited:.0%} of it waits for batches: look at the disk, or raise --num_workers"
    if load > cores + 0.5:
        return f"{load:.0f} threads want this machine's {cores} cores: end other work, or give each run its share by OMP_NUM_THREADS"
    return (
        "other work on the device, a processor that has become hot, or memory that is swapped out?"
    )


class Pace:
    """Times steps, validations left out, and says so where the median of `WINDOW` of them is `SLOW` times that of the fastest window."""

    def __init__(self, say: Callable[[str], None], name: str):
        self._say, self._name = say, name
        self._steps: deque[tuple[float, float]] = deque(
            maxlen=WINDOW
        )  # seconds of a step, and of waiting for its batch
        self._fastest, self._told = float("inf"), 1.0
        self._open: list[
            float
        ] = []  # a step's waiting; these were made since the device was last waited for
        self._spent = 0.0

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Around a step."""
        began = time.monotonic()
        yield
        self._spent += time.monotonic() - began

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Within a step, around the wait for its batch."""
        began = time.monotonic()
        yield
        self._open.append(time.monotonic() - began)

    def judge(self) -> None:
        """To be called when the device has been waited for: only then is it known what the steps since the last time took."""
        self._steps.extend((self._spent / len(self._open), waited) for waited in self._open)
        self._open, self._spent = [], 0.0
        if len(self._steps) < WINDOW:
            return
        seconds = statistics.median(step for step, _ in self._steps)
        self._fastest = min(self._fastest, seconds)
        before, self._told = self._told, told_again(seconds / self._fastest, self._told)
        if self._told > before:
            waited = sum(w for _, w in self._steps) / sum(step for step, _ in self._steps)
            load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
            why = reason(waited, load, os.cpu_count() or 1)
            self._say(
                f"warning: {self._name}: a step takes {seconds:.2g} s now, {self._fastest:.2g} s at its fastest; {why}"
            )
