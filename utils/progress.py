"""Progress bars: frequent updates on a terminal, a line now and then in a file, none where the receiver of messages shows none."""

import sys
import time
from collections.abc import Iterable

from tqdm import tqdm

from utils.messages import receiver


class _Bar(tqdm):
    """Goes by the time that has passed: tqdm goes by the clock, and stands still for an hour where that is put back by one."""

    _time = property(lambda self: time.monotonic, lambda self, clock: None)


def progress(items: Iterable | None = None, **options) -> tqdm:
    """tqdm over `items` (or a bar to move by hand), its options as usual; in a `with` it ends its line before an error is printed."""
    if not receiver().shows_progress:
        options["disable"] = True
    # every step looks at the time, so that nothing is left to tqdm's second thread, which goes by the clock
    return _Bar(
        items,
        dynamic_ncols=True,
        mininterval=0.2 if sys.stderr.isatty() else 20.0,
        miniters=1,
        **options,
    )
