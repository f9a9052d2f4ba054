"""Messages to the user. They go to the logger "fewlabels"; scripts print them on the terminal."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol

from tqdm import tqdm

WARNING = "warning: "
LOGGER = logging.getLogger("fewlabels")
LOGGER.addHandler(logging.NullHandler())  # without any handler, Python would print warnings


class Receiver(Protocol):
    """Where messages go."""

    @property
    def shows_progress(self) -> bool:
        """Whether progress bars are drawn."""
        ...

    def receive(self, text: str, is_error: bool, over_bars: bool) -> None:
        """Receive one message. `over_bars`: a progress bar may be on the screen."""
        ...


@dataclass(frozen=True)
class Terminal:
    """Prints messages: errors on the standard error stream, all others on the standard output."""

    shows_progress: bool = True

    def receive(self, text: str, is_error: bool, over_bars: bool) -> None:
        """Print one message."""
        stream = sys.stdout
        if is_error:
            stream = sys.stderr
        if over_bars:
            tqdm.write(text, file=stream)
            stream.flush()
        else:
            print(text, file=stream)


@dataclass(frozen=True)
class Log:
    """Passes messages to a logger; only progress bars are printed."""

    logger: logging.Logger
    shows_progress: bool

    def receive(self, text: str, is_error: bool, over_bars: bool) -> None:
        """Log one message."""
        if is_error:
            self.logger.error("%s", text)
        elif text.startswith(WARNING):
            self.logger.warning("%s", text.removeprefix(WARNING))
        else:
            self.logger.info("%s", text)


_current: ContextVar[Receiver | None] = ContextVar("receiver of messages", default=None)
_usual: Receiver = Log(LOGGER, shows_progress=True)


def receiver() -> Receiver:
    """Return the receiver of this thread. Another thread that sends messages for it must be given
    this value.
    """
    return _current.get() or _usual


def use_terminal() -> None:
    """From now on, print the messages of this process on the terminal; for scripts."""
    global _usual
    _usual = Terminal()


def uses_terminal() -> bool:
    """Return whether messages of this thread are printed on the terminal."""
    return isinstance(receiver(), Terminal)


@contextmanager
def received_by(other: Receiver) -> Iterator[None]:
    """Within the context, this thread's messages go to `other`."""
    token = _current.set(other)
    try:
        yield
    finally:
        _current.reset(token)


def message(text: str, over_bars: bool = False) -> None:
    """Send a message or a warning (which begins with "warning: ").

    `over_bars`: write it above progress bars that are on the screen.
    """
    receiver().receive(text, is_error=False, over_bars=over_bars)


def error_message(text: str) -> None:
    """Send a message about something that failed."""
    receiver().receive(text, is_error=True, over_bars=False)
