"""Report the fault of one case in a line, so that work on the other cases continues."""

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from utils.errors import UserError


@contextmanager
def report_faults(path: Path, report: Callable[[str], None]) -> Iterator[None]:
    """Pass any exception of the block to `report`, as one line that names `path` and a remedy."""
    try:
        yield
    except UserError as error:
        report(str(error))
    except MemoryError:
        report(f"{path}: too large for the free memory; try again with --workers 1")
    except Exception as error:  # a bug of ours must not stop the other cases
        origin = traceback.extract_tb(error.__traceback__)[-1]
        text = " ".join(str(error).split())[:200]
        report(
            f"{path}: {type(error).__name__}: {text} "
            f"({Path(origin.filename).name}:{origin.lineno}); please report it"
        )


def collect(lines: list[str]) -> Callable[[str | None], None]:
    """Return a function that adds a warning to `lines`; None is no warning."""

    def warn(line: str | None) -> None:
        if line is not None:
            lines.append(line)

    return warn
