"""Files that are complete or not there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path` to write to; `path` is replaced when the block ends, a failure leaves it as it was.

    The temporary name keeps the ending, which some writers go by, and lies in the same folder, because a rename across file
    systems is no single step.
    """
    unfinished = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        yield unfinished
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
