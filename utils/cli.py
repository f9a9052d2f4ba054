"""The frame of every script: flags from a dataclass, one-line errors with exit status 2, a clean Ctrl-C."""

import contextlib
import difflib
import io
import os
import re
import select
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

import tyro

from utils.errors import Interrupted, UserError
from utils.names import printable

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")
LARGEST = 2**63
LESS = "take smaller images or batches, or fewer processes"


def parse(
    cls: type[T],
    argv: Sequence[str] | None = None,
    default: T | None = None,
    description: str | None = None,
    elsewhere: Callable[[str], str] = lambda flag: "",
) -> T:
    """Turn command-line flags into an instance of the dataclass `cls`; `default` gives the values of flags not named. `elsewhere` says
    of a flag that `cls` has not, by its name without the dashes, where it belongs, if anywhere.

    Raises UserError (one line) for an unknown flag or a value of the wrong type; `--help` prints and exits with 0.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    said = io.StringIO()
    extra: dict[str, Any] = {}
    if default is not None:
        extra["default"] = default
    try:
        with contextlib.redirect_stderr(said):
            value, unknown = tyro.cli(
                cls,
                args=argv,
                description=description,
                use_underscores=True,
                return_unknown_args=True,
                **extra,
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UserError(_fault(said.getvalue())) from None
    if unknown:
        raise UserError(_unknown(unknown, [f"--{field.name}" for field in fields(cls)], elsewhere))
    for field in fields(value):
        _check_whole(field.name, getattr(value, field.name))
    return value


def _check_whole(flag: str, value: object) -> None:
    """UserError for a whole number that torch and numpy have no room for, alone or in a tuple."""
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, int) and not -LARGEST <= number < LARGEST:
            raise UserError(f"--{flag} {number}: must be below 2^63")


def _fault(box: str) -> str:
    """What tyro says in its box, as one line: the part between the title and the first rule, where its help begins."""
    rows = [re.sub(r"\x1b\[[0-9;]*m|│", "", row).strip() for row in box.splitlines()]
    rows = [row for row in rows if row and row[0] not in "╭╰"]
    end = next((i for i, row in enumerate(rows) if not row.strip("─")), len(rows))
    text = " ".join(rows[:end]).removeprefix("Error parsing ").rstrip(". ")
    return f"{text[:1].lower()}{text[1:]}; see --help"


def _unknown(tokens: list[str], flags: list[str], elsewhere: Callable[[str], str]) -> str:
    """One line about command-line words that are no flags of ours, with the nearest flag that is."""
    options = [token.split("=")[0] for token in tokens if token.startswith("-")]
    if not options:
        return f"unrecognized argument '{tokens[0]}'; see --help"
    if owner := elsewhere(options[0].lstrip("-").replace("-", "_")):
        return f"unrecognized option {options[0]}: {owner}; leave it out"
    near = difflib.get_close_matches(options[0].replace("-", "_").replace("__", "--", 1), flags, 1)
    return f"unrecognized option {options[0]}{f' (did you mean {near[0]}?)' if near else ''}; see --help"


def run(main: Callable[[], int | None]) -> None:
    """Call `main` and exit: 0 or what it returns, 2 with one line for a UserError, 130 for Ctrl-C, 143 for SIGTERM."""
    threading.excepthook = _quiet_about_files
    _print_any_name()
    try:
        sys.exit(main() or 0)
    except UserError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        sys.exit(2)
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        sys.exit(stop.status)
    except BrokenPipeError:
        if _read_from():
            print(
                "error: a process that was started cannot run; can you read and run Python's own files?",
                file=sys.stderr,
            )
            sys.exit(2)
        # whoever read our output has had enough (`| head`); without this Python would complain once more when it flushes
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except MemoryError as error:
        print(
            f"error: out of memory ({' '.join(str(error).split()) or 'nothing left'}); {LESS}",
            file=sys.stderr,
        )
        sys.exit(2)
    except OSError as error:  # what nobody nearer could say better: a folder that vanished, a name too long, no process left to start
        where = f"{error.filename}: " if error.filename else ""
        print(
            f"error: {where}{error.strerror or error}; mend that, then start the same command again",
            file=sys.stderr,
        )
        sys.exit(2)


def _print_any_name() -> None:
    """Escape what cannot be printed, such as file names that are not valid UTF-8, instead of raising UnicodeEncodeError."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _read_from() -> bool:
    """Whether somebody still reads what we print."""
    if not hasattr(select, "poll"):
        return False
    poll = select.poll()
    for number in (1, 2):
        poll.register(number, 0)
    return not any(said & select.POLLERR for _, said in poll.poll(0))


def _quiet_about_files(args: threading.ExceptHookArgs) -> None:
    """No traceback from TensorBoard's thread where its file cannot be written: the next step notices that it has ended."""
    if not issubclass(args.exc_type, OSError):
        threading.__excepthook__(args)
