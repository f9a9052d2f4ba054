"""Ctrl-C, SIGTERM and SIGHUP (the terminal is gone), turned into a flag that the loop looks at between two steps."""

import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

STOPPING = (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))
GRACE = 2.0  # seconds that a batch may still take after a signal, and that each stronger measure has to work
POLL = 0.1
END = 0  # no signal has this number


class NoBatch(BaseException):
    """A signal came, and the batch that the loop waits for does not; not an Exception, so that no loader takes it for a fault."""


class StopSignals:
    """Within the context, the first of these signals only sets `received`; a second Ctrl-C interrupts at once.

    Where the loop waits for a batch that does not come, `waiting` raises NoBatch. A thread watches over that, because Python calls no
    signal handler while the main thread is held up outside Python; where nothing else helps, the thread ends the process.
    """

    def __init__(self):
        self.received = 0
        self._before: dict[int, Any] = {}
        self._waiting_since: float | None = None
        self._is_reminder = False
        self._earlier_wakeup = -1
        self._heard: socket.socket | None = None
        self._wakeup: socket.socket | None = None

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is not threading.main_thread():
            return self
        self._heard, self._wakeup = socket.socketpair()
        self._wakeup.setblocking(False)
        self._earlier_wakeup = signal.set_wakeup_fd(
            self._wakeup.fileno(), warn_on_full_buffer=False
        )
        for number in STOPPING:
            ignored = signal.getsignal(number) == signal.SIG_IGN  # nohup has SIGHUP ignored
            if number == signal.SIGINT or not ignored:
                self._before[number] = signal.signal(number, self._handle)
        threading.Thread(target=self._watch, args=(self._heard,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._wakeup is not None:
            signal.set_wakeup_fd(self._earlier_wakeup)
            self._wakeup.send(bytes([END]))
            self._wakeup.close()
            self._wakeup = None

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The block waits for a batch: it raises NoBatch where a signal comes and the batch does not."""
        self._waiting_since = time.monotonic()
        try:
            yield
        finally:
            self._waiting_since = None

    def _handle(self, number: int, frame) -> None:
        if self._is_reminder:
            self._is_reminder = False
            if self._waiting_since is not None:
                raise NoBatch
            return
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number

    def _watch(self, heard: socket.socket) -> None:
        """Wait for the first signal; from then on see that the main thread obeys it. Ends when the context does."""
        with heard:
            first = self._next_signal(heard)
            if first == END:
                return
            began = time.monotonic()
            interrupts = int(first == signal.SIGINT)
            reminders = 0  # that come back through the socket
            reminded = None
            heard.settimeout(POLL)
            while True:
                try:
                    number = self._next_signal(heard)
                except TimeoutError:
                    number = None
                if number == END:
                    return
                now = time.monotonic()
                if number == first and reminders > 0:
                    reminders -= 1
                elif number == signal.SIGINT:
                    interrupts += 1
                    if interrupts == 2:
                        began = now
                if interrupts > 1 and now - began > 2 * GRACE:
                    _end(signal.SIGINT, "interrupted")
                since = self._waiting_since
                if since is None:
                    reminded = None
                elif reminded is None and now - max(since, began) > GRACE:
                    reminded = now
                    reminders += 1
                    self._remind(first)
                elif reminded is not None and now - reminded > GRACE:
                    _end(first, "stopped while a batch was being read")

    def _next_signal(self, heard: socket.socket) -> int:
        """The number of the next of these signals, END at the end of the context. Raises TimeoutError as the socket is set."""
        while True:
            number = (heard.recv(1) or bytes([END]))[0]
            if number == END or number in STOPPING:
                return number

    def _remind(self, number: int) -> None:
        """Send the signal to the main thread again, which ends the system call that it waits in."""
        self._is_reminder = True
        if hasattr(signal, "pthread_kill"):
            main_thread = threading.main_thread().ident
            assert main_thread is not None  # it has started
            signal.pthread_kill(main_thread, number)
        else:
            import _thread

            _thread.interrupt_main(signal.Signals(number))


def _end(number: int, what: str) -> None:
    """End the process from another thread than the one that does not react."""
    print(f"\n{what}; the last checkpoint is kept: the same command continues", file=sys.stderr)
    sys.stderr.flush()
    for process in multiprocessing.active_children():
        process.kill()
    os._exit(128 + number)


def _hear_nothing() -> None:
    """In a forked process: its signals must not reach the thread of the process that it was forked from."""
    with suppress(ValueError):  # not forked from the main thread
        signal.set_wakeup_fd(-1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_hear_nothing)


def leave_to_main_process(worker: int) -> None:
    """For processes that prepare batches: Ctrl-C and a scheduler's SIGTERM reach them too, but it is the main process that stops them."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
