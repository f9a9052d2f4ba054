"""Progress bars: lively on a terminal, a line now and then where the output goes to a file."""

import sys
from collections.abc import Iterable

from tqdm import tqdm


def progress(items: Iterable | None = None, **options) -> tqdm:
    """tqdm over `items` (or a bar to move by hand), its options as usual; in a `with` it ends its line before an error is printed."""
    return tqdm(items, dynamic_ncols=True, mininterval=0.2 if sys.stderr.isatty() else 20.0, **options)
