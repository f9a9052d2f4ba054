"""Call a function in a process of its own, so that a crash in a C library does not end this one."""

import json
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, TypeVar

from utils.errors import UserError

Result = TypeVar("Result")

# -I keeps the current folder off the child's path: a user's `utils.py` or `numpy.py` must not be
# imported. The child gets the parent's path instead.
START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from utils.isolated import answer; answer()"
)


def call_isolated(path: Path, function: Callable[..., Result], *arguments: object) -> Result:
    """Return `function(*arguments)`, computed in a child process.

    `path` is the file that the function works on. Function, arguments and result are pickled, so
    the function must be importable by its name. What it prints is discarded. Starting the child
    costs a few tenths of a second, more if the function's module imports large libraries.

    Raises whatever the function raises, and UserError naming `path` if the child dies.
    """
    search_path = [entry or os.getcwd() for entry in sys.path]
    child = subprocess.run(
        [sys.executable, "-I", "-c", START, json.dumps(search_path)],
        input=pickle.dumps((function, arguments), protocol=pickle.HIGHEST_PROTOCOL),
        capture_output=True,
        check=False,
    )
    if child.returncode < 0:
        raise UserError(_death(path, -child.returncode))
    if child.returncode > 0:
        lines = child.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        raise RuntimeError(f"the process that reads it ended early: {lines[-1]}")
    succeeded, value = pickle.loads(child.stdout)
    if not succeeded:
        raise value
    return value


def answer() -> None:
    """Run in the child: read function and arguments from stdin, write the result to stdout."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends the child
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # libraries that print must not disturb the result
    function, arguments = pickle.load(sys.stdin.buffer)
    try:
        value = function(*arguments)
    except Exception as error:
        _send(output, succeeded=False, value=error)
    else:
        _send(output, succeeded=True, value=value)


def _send(output: BinaryIO, succeeded: bool, value: object) -> None:
    with output:
        pickle.dump((succeeded, value), output, protocol=pickle.HIGHEST_PROTOCOL)


def _death(path: Path, number: int) -> str:
    """One line for a child that a signal ended."""
    if number == signal.SIGKILL:
        return (
            f"{path}: the process that reads it was killed (out of memory?); "
            "free memory and try again"
        )
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    return (
        f"{path}: the library that reads it crashed ({name}), the file is damaged; "
        "copy or download it again"
    )
