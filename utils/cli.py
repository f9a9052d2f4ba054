"""What every script needs: flags from a dataclass, one-line errors with exit status 2, a clean
Ctrl-C.
"""

import contextlib
import difflib
import io
import os
import re
import select
import shlex
import shutil
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TextIO, TypeVar

import tyro

from utils.errors import Interrupted, ReportedError, UserError
from utils.messages import use_terminal
from utils.names import printable

T = TypeVar("T")
LARGEST = 2**63
LESS = "use smaller images or batches, or fewer processes"


def parse(
    cls: type[T],
    argv: Sequence[str] | None = None,
    default: T | None = None,
    description: str | None = None,
    owner_of: Callable[[str], str] = lambda flag: "",
) -> T:
    """Turn command-line flags into an instance of the dataclass `cls`.

    A field that is a dataclass is a group of flags: `--help` shows it by its name, and its flags
    have no prefix. `default` holds the values of flags that are not passed. `owner_of` is called
    with the name (without dashes) of a flag that `cls` does not have; it returns where that flag
    belongs, or an empty string.

    Raises UserError (one line) for an unknown flag or a value of the wrong type; `--help` prints
    and exits with 0.
    """
    if argv is None:
        argv = arguments()
    errors = io.StringIO()
    help_text = _HelpText(sys.stdout)
    extra: dict[str, Any] = {}
    if description is not None:
        description = _joined(description)
    if default is not None:
        extra["default"] = default
    try:
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(help_text):
            value, unknown = tyro.cli(
                cls,
                args=list(argv),
                description=description,
                use_underscores=True,
                return_unknown_args=True,
                config=(tyro.conf.OmitArgPrefixes,),
                **extra,
            )
    except SystemExit as stop:
        if not stop.code:
            print(_wrapped(help_text.getvalue()), end="")
            raise
        raise UserError(_fault(errors.getvalue())) from None
    options = dict(flat_options(value))
    if unknown:
        flags = [f"--{name}" for name in options]
        raise UserError(_unknown(unknown, flags, owner_of=owner_of))
    for name, number in options.items():
        _check_whole(name, number)
    return value


class _HelpText(io.StringIO):
    """Collects what --help prints, with the colours and frames that `output` can show."""

    def __init__(self, output: TextIO) -> None:
        super().__init__()
        self._output = output

    @property
    def encoding(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._output.encoding

    def isatty(self) -> bool:
        return self._output.isatty()


def _joined(description: str) -> str:
    """Join the lines of each paragraph; indented lines are kept."""
    return re.sub(r"(?<=\S)\n(?=\S)", " ", description)


def _wrapped(help_text: str) -> str:
    """Wrap the paragraphs of a script's description, which tyro prints as single lines, to the
    terminal's width. Boxes of flags have that width already.
    """
    width = shutil.get_terminal_size().columns
    lines: list[str] = []
    for line in help_text.splitlines():
        if line[:1].isalpha():
            line = textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False)
        lines.append(line)
    return "\n".join([*lines, ""])


def flat_options(options: Any) -> Iterator[tuple[str, Any]]:
    """Yield the name and the value of each field of a dataclass object, and of the dataclass
    objects in it.
    """
    for field in fields(options):
        value = getattr(options, field.name)
        if is_dataclass(value):
            yield from flat_options(value)
        else:
            yield field.name, value


def arguments() -> list[str]:
    """Return the words of this process's command line, without the program."""
    return sys.argv[1:]


def program() -> str:
    """Return the program of this process's command line, as it was typed."""
    return sys.argv[0]


def command_line() -> str:
    """Return this process's command line for logs: the program without its folder, quoted for a
    shell.
    """
    return shlex.join([Path(program()).name, *arguments()])


def last_value(argv: Sequence[str], flag: str) -> str | None:
    """Return the last value that a command line gives a flag (without dashes), None if there is
    none.
    """
    last = None
    for number, word in enumerate(argv):
        name, equals, value = word.partition("=")
        if not is_flag(name, flag):
            continue
        last = value
        if not equals:
            last = next(iter(argv[number + 1 : number + 2]), None)
    return last


def is_flag(word: str, flag: str) -> bool:
    """Return whether a word of a command line is that flag; --root-path is --root_path."""
    return word.startswith("--") and word[2:].replace("-", "_") == flag


def _check_whole(flag: str, value: object) -> None:
    """Raise UserError for an integer, or one in a tuple, that does not fit into 64 bits, the limit
    of torch and numpy.
    """
    numbers = value
    if not isinstance(numbers, tuple):
        numbers = (value,)
    for number in numbers:
        if isinstance(number, int) and not -LARGEST <= number < LARGEST:
            raise UserError(f"--{flag} {number}: must lie between -2^63 and 2^63 - 1")


def _fault(box: str) -> str:
    """Return tyro's error message, which it prints in a box, as one line.

    The message lies between the box's title and its first rule, below which tyro prints help.
    """
    message = []
    for line in box.splitlines():
        row = re.sub(r"\x1b\[[0-9;]*m|│", "", line).strip()
        if not row or row[0] in "╭╰":
            continue
        if not row.strip("─"):
            break
        message.append(row)
    text = " ".join(message).removeprefix("Error parsing ").rstrip(". ")
    text = f"{text[:1].lower()}{text[1:]}"
    missing_flag = re.match(r"missing from .*?: (--\w+|[A-Z_]+)", text)
    if missing_flag:
        text = missing_flag[0]  # without the help of that flag
    return f"{text}; see --help"


def _unknown(tokens: list[str], flags: list[str], owner_of: Callable[[str], str]) -> str:
    """Return one line about the first unknown flag or word, with the most similar known flag."""
    options = [token.split("=")[0] for token in tokens if token.startswith("-")]
    if not options:
        return (
            f"unrecognized argument '{tokens[0]}': write it after the flag it belongs to; "
            "see --help"
        )
    if owner := owner_of(options[0].lstrip("-").replace("-", "_")):
        return f"unrecognized option {options[0]}: {owner}; remove it"
    spelled = options[0].replace("-", "_").replace("__", "--", 1)
    near = difflib.get_close_matches(spelled, flags, n=1)
    hint = ""
    if near:
        hint = f" (did you mean {near[0]}?)"
    return f"unrecognized option {options[0]}{hint}; see --help"


def run(main: Callable[[Sequence[str]], int | None]) -> None:
    """Call a script's `main` with the words of the command line, show its messages on the terminal,
    and exit.

    The status is 0 or what `main` returns, 2 with one line for a UserError, 130 for Ctrl-C, 143 for
    SIGTERM.
    """
    threading.excepthook = _quiet_about_files
    _print_any_name()
    use_terminal()
    try:
        sys.exit(main(arguments()) or 0)
    except ReportedError:
        sys.exit(2)
    except UserError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        sys.exit(2)
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        sys.exit(stop.status)
    except BrokenPipeError:
        if _is_output_read():
            print(
                "error: a process that was started cannot run; "
                "check that you may read and run Python's own files",
                file=sys.stderr,
            )
            sys.exit(2)
        # The reader of our output has closed it (`| head`). Otherwise Python would print another
        # error when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except MemoryError as error:
        detail = " ".join(str(error).split()) or "no detail available"
        print(f"error: out of memory ({detail}); {LESS}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        # not handled where it occurred: a folder vanished, a name is too long, no process can start
        where = ""
        if error.filename:
            where = f"{error.filename}: "
        print(
            f"error: {where}{error.strerror or error}; fix this, then run the same command again",
            file=sys.stderr,
        )
        sys.exit(2)


def _print_any_name() -> None:
    """Escape what cannot be printed, such as file names that are not valid UTF-8, instead of
    raising UnicodeEncodeError.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _is_output_read() -> bool:
    """Whether another process or a terminal still reads what we print."""
    if not hasattr(select, "poll"):
        return False
    poll = select.poll()
    for number in (1, 2):
        poll.register(number, 0)
    return not any(events & select.POLLERR for _, events in poll.poll(0))


def _quiet_about_files(args: threading.ExceptHookArgs) -> None:
    """Print no traceback when TensorBoard's thread cannot write its file: the next step notices
    that the thread has ended.
    """
    if not issubclass(args.exc_type, OSError):
        threading.__excepthook__(args)
