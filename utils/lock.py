"""At most one writer per folder.

There is a lock, which the system releases when its process ends, and a note that names its holder.
"""

import errno
import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from utils.cli import command_line
from utils.errors import UserError, writing
from utils.files import replacing, shown
from utils.flock import Answer, LockedFile
from utils.messages import message

NAME = "writer.lock"
HOLDER = "writer.json"
ATTEMPTS = 20
PATIENCE = 0.5  # seconds: a lock may be held for a moment by a process that only tries it


@contextmanager
def only_writer(folder: Path, remedy: str) -> Iterator[None]:
    """Within the context no other process writes to `folder`, which is made if it is missing.

    Raises UserError if another process writes to it (the message names that process and ends with
    `remedy`), and if the folder cannot be written to. Prints a warning and continues where the file
    system has no locks. Folders that were made here and are still empty at the end are removed.
    """
    with _locked(folder, NAME, remedy=remedy, shared=False), _note(folder, HOLDER, remedy=remedy):
        yield


@contextmanager
def only_writer_of_part(folder: Path, part: int, parts: int, remedy: str) -> Iterator[None]:
    """Within the context, no other process writes this part of the folder's results.

    The other parts may be written at the same time.

    Raises UserError as `only_writer` does, also if another process writes the whole folder, or
    divides it into another number of parts.
    """
    stem = f"writer_{part}of{parts}"
    with (
        _locked(folder, NAME, remedy=remedy, shared=True),
        _locked(folder, f"{stem}.lock", remedy=remedy, shared=False),
        _note(folder, f"{stem}.json", remedy=remedy),
    ):
        for path in folder.glob("writer_*of*.lock"):
            if not path.stem.endswith(f"of{parts}") and _is_held(path):
                raise _refusal(folder, path.with_suffix(".json"), remedy)
        yield


@contextmanager
def _locked(folder: Path, name: str, remedy: str, shared: bool) -> Iterator[None]:
    """Hold the lock of that name in the folder.

    Its file is deleted at the end, unless others share it.
    """
    new_folders = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    with writing(folder, remedy):
        file = _take(folder, name, remedy=remedy, shared=shared)
    try:
        yield
    finally:
        if not shared or file.lock() is Answer.TAKEN:  # nobody shares it any more
            with suppress(OSError):
                file.path.unlink()
        file.close()
        with suppress(OSError):  # not empty
            for parent in new_folders:
                parent.rmdir()


def _take(folder: Path, name: str, remedy: str, shared: bool) -> LockedFile:
    """Return the lock file, locked.

    Its holder deletes it at the end, so a lock only counts while its file is still at its path.
    """
    until = time.monotonic() + PATIENCE
    for _ in range(ATTEMPTS):
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        folder.mkdir(parents=True, exist_ok=True)
        try:
            file = _open(folder / name)
        except FileNotFoundError:
            continue  # another process has just removed the folder that it had made
        answer = file.lock(shared=shared)
        while answer is Answer.HELD and time.monotonic() < until:
            time.sleep(PATIENCE / 10)
            answer = file.lock(shared=shared)
        if answer is Answer.HELD:
            file.close()
            raise _refusal(folder, folder / Path(name).with_suffix(".json"), remedy)
        if answer is Answer.NONE:
            message(f"warning: {folder}: {_unlocked(folder, name, file.reason)}")
            return file
        if file.is_at_its_path():
            return file
        file.close()
    raise OSError(f"{name} is deleted again and again")


def _open(path: Path) -> LockedFile:
    """Open a lock file. Read-only is enough for a lock, if another user owns the file."""
    try:
        return LockedFile(path)
    except PermissionError:
        return LockedFile(path, os.O_RDONLY)


def _is_held(path: Path) -> bool:
    try:
        file = LockedFile(path, os.O_RDONLY)
    except OSError:
        return False
    answer = file.lock()
    file.close()
    return answer is Answer.HELD


def _unlocked(folder: Path, name: str, reason: str) -> str:
    text = f"its file system has no locks ({reason}); make sure that no other command writes to it"
    about = _read(folder / Path(name).with_suffix(".json"))
    if about:
        return f"{text}: {_words(about)} has written to it and may still be running"
    return text


def _refusal(folder: Path, note: Path, remedy: str) -> UserError:
    about = _read(note)
    if not about:  # the holder of the lock may be one of several that share it
        parts = (_read(path) for path in sorted(folder.glob("writer*.json")))
        about = next(filter(None, parts), {})
    return UserError(
        f"{folder}: {_words(about)} is writing to it; wait until it has ended, or {remedy}"
    )


@contextmanager
def _note(folder: Path, name: str, remedy: str) -> Iterator[None]:
    """Write a file that names the writer; delete it at the end.

    The message that a second writer gets is made from it.
    """
    about = {
        "process": os.getpid(),
        "machine": platform.node(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "command": command_line(),
    }
    with writing(folder, remedy), replacing(folder / name) as unfinished:
        unfinished.write_text(json.dumps(about) + "\n", encoding="utf-8")
    try:
        yield
    finally:
        with suppress(OSError):
            (folder / name).unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any]:
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(about, dict):
        return {}
    return about


def _words(about: dict[str, Any]) -> str:
    if not about:
        return "another process"
    process, machine, since, command = (
        shown(str(about.get(key))) for key in ("process", "machine", "since", "command")
    )
    return f"process {process} on {machine} (since {since}: {command})"
