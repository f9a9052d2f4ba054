"""Ctrl-C, SIGTERM and SIGHUP (the terminal closed) as a flag that the loop reads between steps."""

import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

STOPPING = [signal.SIGINT, signal.SIGTERM]
if hasattr(signal, "SIGHUP"):  # Windows has none
    STOPPING.append(signal.SIGHUP)
GRACE = 2.0  # seconds that a batch may take after a signal, and that each stronger measure has
POLL = 0.1
END = 0  # no signal has this number


class NoBatch(BaseException):
    """A signal came, and the batch that the loop waits for does not.

    It is not an Exception, so that no loader takes it for a fault.
    """


class _Enforcement:
    """Measures against a main thread that does not obey the first signal, milder ones first."""

    def __init__(self, first: int, remind: Callable[[int], None]) -> None:
        """`remind` sends a signal to the main thread."""
        self._first = first
        self._remind = remind
        self._began = time.monotonic()
        self._interrupts = int(first == signal.SIGINT)
        self._reminders = 0  # sent, and still to come back through the socket
        self._reminded: float | None = None

    def note_signal(self, number: int) -> None:
        """Count a further signal; a second Ctrl-C starts the time of grace again."""
        if number == self._first and self._reminders > 0:
            self._reminders -= 1
        elif number == signal.SIGINT:
            self._interrupts += 1
            if self._interrupts == 2:
                self._began = time.monotonic()

    def act(self, waiting_since: float | None) -> None:
        """Remind the main thread or end the process, if the time of grace is over.

        `waiting_since`: when the wait for the current batch began; None outside of a wait.
        """
        now = time.monotonic()
        if self._interrupts > 1 and now - self._began > 2 * GRACE:
            _end(signal.SIGINT, "interrupted")
        if waiting_since is None:
            self._reminded = None
        elif self._reminded is None:
            if now - max(waiting_since, self._began) > GRACE:
                self._reminded = now
                self._reminders += 1
                self._remind(self._first)
        elif now - self._reminded > GRACE:
            _end(self._first, "stopped while a batch was being read")


class StopSignals:
    """Within the context, the first signal only sets `received`; a second Ctrl-C interrupts.

    If the loop waits for a batch that does not come, `waiting` raises NoBatch. A thread ensures it,
    because Python calls no signal handler while the main thread is blocked outside Python. If
    nothing else helps, the thread ends the process.
    """

    def __init__(self) -> None:
        """`received`: number of the first signal, 0 before it."""
        self.received = 0
        self._before: dict[int, Any] = {}
        self._waiting_since: float | None = None
        self._is_reminder = False
        self._earlier_wakeup = -1
        self._heard: socket.socket | None = None
        self._wakeup: socket.socket | None = None

    def __enter__(self) -> "StopSignals":
        """Handle signals, if this is the main thread."""
        if threading.current_thread() is not threading.main_thread():
            return self
        self._heard, self._wakeup = socket.socketpair()
        self._wakeup.setblocking(False)
        self._earlier_wakeup = signal.set_wakeup_fd(
            self._wakeup.fileno(), warn_on_full_buffer=False
        )
        for number in STOPPING:
            ignored = signal.getsignal(number) == signal.SIG_IGN  # nohup ignores SIGHUP
            if number == signal.SIGINT or not ignored:
                self._before[number] = signal.signal(number, self._handle)
        threading.Thread(target=self._watch, args=(self._heard,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Restore the earlier handlers and end the thread."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._wakeup is not None:
            signal.set_wakeup_fd(self._earlier_wakeup)
            self._wakeup.send(bytes([END]))
            self._wakeup.close()
            self._wakeup = None

    @contextmanager
    def waiting(self) -> Generator[None, None, None]:
        """Surround the wait for a batch. Raises NoBatch if a signal comes and no batch does."""
        self._waiting_since = time.monotonic()
        try:
            yield
        finally:
            self._waiting_since = None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._is_reminder:
            self._is_reminder = False
            if self._waiting_since is not None:
                raise NoBatch
            return
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number

    def _watch(self, heard: socket.socket) -> None:
        """Wait for the first signal, then ensure that the main thread obeys it.

        Ends when the context does.
        """
        with heard:
            first = self._next_signal(heard)
            if first == END:
                return
            enforcement = _Enforcement(first, self._remind)
            heard.settimeout(POLL)
            while True:
                try:
                    number = self._next_signal(heard)
                except TimeoutError:
                    number = None
                if number == END:
                    return
                if number is not None:
                    enforcement.note_signal(number)
                enforcement.act(self._waiting_since)

    def _next_signal(self, heard: socket.socket) -> int:
        """Return the number of the next signal, END at the end of the context.

        Raises TimeoutError after the timeout of the socket.
        """
        while True:
            number = (heard.recv(1) or bytes([END]))[0]
            if number == END or number in STOPPING:
                return number

    def _remind(self, number: int) -> None:
        """Send the signal to the main thread again: it ends the system call that blocks it."""
        self._is_reminder = True
        if hasattr(signal, "pthread_kill"):
            main_thread = threading.main_thread().ident
            assert main_thread is not None  # it has started
            signal.pthread_kill(main_thread, number)
        else:
            import _thread

            _thread.interrupt_main(signal.Signals(number))


def _end(number: int, what: str) -> None:
    """End the process from this thread, because the main thread does not react."""
    print(f"\n{what}; the last checkpoint is kept: the same command continues", file=sys.stderr)
    sys.stderr.flush()
    for process in multiprocessing.active_children():
        process.kill()
    os._exit(128 + number)


def _detach_wakeup() -> None:
    """Keep the signals of a forked process from the thread of its parent process."""
    with suppress(ValueError):  # not forked from the main thread
        signal.set_wakeup_fd(-1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_detach_wakeup)


def leave_to_main_process(worker: int) -> None:
    """Ignore signals in a process that prepares batches: the main process ends it.

    Ctrl-C and a scheduler's SIGTERM reach all processes.
    """
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
