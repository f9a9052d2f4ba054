"""What a user can do wrong, told in one line, and the clean end of a stopped run."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class UserError(Exception):
    """An error that the user can mend: the message names the file or flag and what to do. Scripts print it and exit with status 2."""


class Interrupted(Exception):
    """A signal ended the work after everything was saved; `status` is the shell's exit status for it (128 + signal number)."""

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status


@contextmanager
def writing(path: Path, mend: str) -> Iterator[None]:
    """Turn a failure to write below `path` (a full disk, a file in a folder's place) into a UserError; `mend` says what to do."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}); {mend}") from None
