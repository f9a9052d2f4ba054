"""Ctrl-C, SIGTERM and SIGHUP (the terminal is gone), turned into a flag that the loop looks at between two steps."""

import signal
import threading

STOPPING = (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))


class StopSignals:
    """Within the context, the first of these signals only sets `received`; a second Ctrl-C interrupts at once."""

    def __init__(self):
        self.received = 0
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            for number in STOPPING:
                if (
                    number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN
                ):  # nohup has SIGHUP ignored
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number


def leave_to_main_process(worker: int) -> None:
    """For processes that prepare batches: Ctrl-C and a scheduler's SIGTERM reach them too, but it is the main process that stops them."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
