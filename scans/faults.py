"""One bad case stops no other: what is raised over it becomes a line."""

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from utils.errors import UserError


@contextmanager
def told(path: Path, tell: Callable[[str], None]) -> Iterator[None]:
    """What goes wrong in the block with `path` is given to `tell` as one line that names it and what to do."""
    try:
        yield
    except UserError as error:
        tell(str(error))
    except MemoryError:
        tell(f"{path}: too large for the memory that is left; try again with --workers 1")
    except Exception as error:  # ours to mend, but no reason to leave the other cases undone
        place = traceback.extract_tb(error.__traceback__)[-1]
        text = " ".join(str(error).split())[:200]
        tell(
            f"{path}: {type(error).__name__}: {text} ({Path(place.filename).name}:{place.lineno}); please report it"
        )
