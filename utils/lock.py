"""One folder, one writer: a lock that the system takes back from a process that ended, however it did, and who holds it."""

import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from utils.errors import UserError, writing
from utils.files import alive, replacing

NAME, HOLDER = "writer.lock", "writer.json"
LINGER = 30  # seconds: the processes that prepared batches for a killed one hold its lock until they notice


@contextmanager
def only_writer(folder: Path, remedy: str) -> Iterator[None]:
    """Within the context nobody else writes to `folder`, which is made if it is missing. UserError that says who does, `remedy` at its
    end, and where the folder cannot be written to."""
    with writing(folder, remedy):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / NAME)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            try:
                lock.acquire(timeout=LINGER if _ended(_read(folder)) else 0)
            except Timeout:
                raise UserError(
                    f"{folder}: {_words(_read(folder))} is writing to it; wait until it has ended, or {remedy}"
                ) from None
        about = {
            "process": os.getpid(),
            "machine": platform.node(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S"),
            "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        }
        try:
            with replacing(folder / HOLDER) as unfinished:
                unfinished.write_text(json.dumps(about) + "\n", encoding="utf-8")
        except BaseException:
            lock.release()
            raise
    try:
        yield
    finally:
        with suppress(OSError):
            (folder / HOLDER).unlink(missing_ok=True)
        lock.release()


def _read(folder: Path) -> dict:
    try:
        about = json.loads((folder / HOLDER).read_text(encoding="utf-8"))
        return about if isinstance(about, dict) else {}
    except (OSError, ValueError):
        return {}


def _ended(about: dict) -> bool:
    process = about.get("process")
    return (
        about.get("machine") == platform.node() and isinstance(process, int) and not alive(process)
    )


def _words(about: dict) -> str:
    if not about:
        return "another process"
    return f"process {about.get('process')} on {about.get('machine')} (since {about.get('since')}: {about.get('command')})"
