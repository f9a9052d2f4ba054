"""Progress bars: frequent updates on a terminal, rare ones in a file.

There are none if the receiver of messages shows none.
"""

import sys
import time
from collections.abc import Iterable
from typing import Any, TypeVar

from tqdm import tqdm

from utils.messages import receiver

T = TypeVar("T")


class _Bar(tqdm):
    """A bar that uses monotonic time.

    tqdm uses the system clock, and does not update for an hour if that is set back by an hour.
    """

    _time = property(lambda self: time.monotonic, lambda self, clock: None)


def progress(items: Iterable[T] | None = None, **options: Any) -> "tqdm[T]":
    """Return tqdm over `items`, or a bar that the caller updates; `options` are those of tqdm.

    In a `with` statement the bar ends its line before an error is printed.
    """
    if not receiver().shows_progress:
        options["disable"] = True
    # miniters=1: every step checks the time, so that tqdm's monitor thread, which uses the system
    # clock, is not needed.
    interval = 20.0
    if sys.stderr.isatty():
        interval = 0.2
    return _Bar(
        items,
        dynamic_ncols=True,
        mininterval=interval,
        miniters=1,
        **options,
    )
