"""Errors that a user can cause, and the exception that ends an interrupted run."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class UserError(Exception):
    """An error that the user can fix: the message names the file or flag and what to do.

    Scripts print it and exit with status 2.
    """


class ReportedError(UserError):
    """A UserError whose details were already reported, so scripts only exit with status 2."""


class Interrupted(Exception):
    """A signal ended the work after everything was saved.

    `status`: the shell's exit status for it (128 + signal number).
    """

    def __init__(self, message: str, status: int) -> None:
        """`message`: what is printed before the process ends."""
        super().__init__(message)
        self.status = status


@contextmanager
def writing(path: Path, remedy: str) -> Iterator[None]:
    """Within the context, turn a failure to write below `path` into a UserError.

    For example a full disk, or a file in a folder's place. `remedy` ends the message.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}); {remedy}"
        ) from None
