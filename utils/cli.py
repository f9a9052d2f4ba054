"""The frame of every script: flags from a dataclass, one-line errors with exit status 2, a clean Ctrl-C."""

import contextlib
import io
import re
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

import tyro

from utils.errors import Interrupted, UserError

T = TypeVar("T")


def parse(cls: type[T], argv: Sequence[str] | None = None, default: T | None = None, description: str | None = None) -> T:
    """Turn command-line flags into an instance of the dataclass `cls`; `default` gives the values of flags not named.

    Raises UserError (one line) for an unknown flag or a value of the wrong type; `--help` prints and exits with 0.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    said = io.StringIO()
    extra = {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(cls, args=argv, description=description, use_underscores=True, **extra)
    except SystemExit as stop:
        if not stop.code:
            raise
        text = re.sub(r"\x1b\[[0-9;]*m|[╭╮╰╯│─┌┐└┘]", " ", said.getvalue())
        raise UserError(re.sub(r"\s+", " ", text).strip()) from None


def run(main: Callable[[], int | None]) -> None:
    """Call `main` and exit: 0 or what it returns, 2 with one line for a UserError, 130 for Ctrl-C, 143 for SIGTERM."""
    try:
        sys.exit(main() or 0)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        sys.exit(stop.status)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
