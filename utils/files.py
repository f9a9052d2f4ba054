"""Atomic writing of files, checks of file names, and removal of unfinished files."""

import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from utils.errors import UserError
from utils.flock import Answer, LockedFile, fcntl

LONGEST = 180  # bytes of a name: file systems allow 255, and endings and a number are added to it
ABANDONED = 24 * 3600  # seconds without a change, for file systems without locks
UNFINISHED = re.compile(r"\.unfinished-[0-9a-f]{16}-.+")
IN_USE = "in-use.lock"  # in a scratch folder


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary file next to `path` to write to; it becomes `path` when the block ends.

    A failure leaves `path` as it was.

    Raises OSError, for example FileNotFoundError if the folder has vanished.
    """
    with unfinished_file(path) as unfinished:
        yield unfinished
        if not stat.S_ISREG(os.lstat(unfinished).st_mode):
            raise OSError(f"{unfinished.name} was replaced by a link while it was written")
        os.replace(unfinished, path)


@contextmanager
def unfinished_file(path: Path) -> Iterator[Path]:
    """Yield a new, empty file next to `path`, with a random name that keeps the ending.

    It is deleted unless the block renames it.

    It lies in the same folder because a rename across file systems is not atomic. While the block
    runs, this process holds the file's lock, so that `remove_unfinished` keeps it. Raises OSError
    where it cannot be made.
    """
    file = _new_locked_file(path)
    try:
        yield file.path
    finally:
        with suppress(OSError):  # renamed, or the folder is gone
            file.path.unlink()
        file.close()


def _new_locked_file(path: Path) -> LockedFile:
    while True:
        file = LockedFile(unfinished_path(path), os.O_RDWR | os.O_CREAT | os.O_EXCL)
        if fcntl is None:
            file.close()  # Windows neither renames nor writes to a file that is open or locked
            return file
        if file.lock() is not Answer.HELD and file.is_at_its_path():
            return file
        file.close()  # `remove_unfinished` of another process took it before it was locked
        with suppress(OSError):
            file.path.unlink()


def unfinished_path(path: Path) -> Path:
    """Return a unique name next to `path` for a file that is later renamed to `path`."""
    return path.with_name(f".unfinished-{secrets.token_hex(8)}-{path.name}")


@contextmanager
def scratch(purpose: str, place: Path | None = None) -> Iterator[Path]:
    """Yield a new folder in `place`, which is deleted when the block ends.

    `place` is the system's temporary folder by default.

    Folders that killed processes left in `place` are deleted first.
    """
    place = place or Path(tempfile.gettempdir())
    remove_unfinished(place, below=False)
    with tempfile.TemporaryDirectory(
        prefix=f".unfinished-{secrets.token_hex(8)}-{purpose}-",
        dir=place,
        ignore_cleanup_errors=True,
    ) as folder:
        in_use = LockedFile(Path(folder) / IN_USE)
        in_use.lock()
        try:
            yield Path(folder)
        finally:
            in_use.close()


def remove_unfinished(root: Path, below: bool = True) -> None:
    """Delete the files below `root` that killed processes were writing.

    Without `below`, only files directly in `root` and scratch folders are deleted. A file stays if
    another process holds its lock, or if it cannot be deleted. Where the file system has no locks,
    files that changed within the last day stay too.
    """
    pattern = ".unfinished-*"
    paths = root.glob(pattern)
    if below:
        paths = root.rglob(pattern)
    for path in paths:
        if not UNFINISHED.fullmatch(path.name) or path.is_symlink():
            continue
        if path.is_dir() and not below:
            _remove_scratch(path)
        elif path.is_file():
            _remove_file(path)


def _remove_file(path: Path) -> None:
    with suppress(OSError):
        if fcntl is None:
            if is_old(path):
                path.unlink()
            return
        file = LockedFile(path, os.O_RDWR)
        try:
            answer = file.lock()
            if answer is Answer.TAKEN or (answer is Answer.NONE and is_old(path)):
                path.unlink()
        finally:
            file.close()


def _remove_scratch(folder: Path) -> None:
    """Delete a scratch folder whose lock nobody holds.

    One without a lock file is just being made, or was emptied: it must be old.
    """
    with suppress(OSError):
        if not (folder / IN_USE).exists():
            if is_old(folder):
                shutil.rmtree(folder)
            return
        file = LockedFile(folder / IN_USE, os.O_RDWR)
        answer = file.lock()
        file.close()
        if answer is Answer.TAKEN or (answer is Answer.NONE and is_old(folder)):
            shutil.rmtree(folder)


def is_old(path: Path) -> bool:
    """Return whether `path` has not changed for a day, by the clock of its file system.

    This machine's clock may differ. Raises OSError.
    """
    with tempfile.TemporaryFile(dir=path.parent) as now:
        return os.fstat(now.fileno()).st_mtime - path.stat().st_mtime > ABANDONED


def files_below(folder: Path) -> list[Path]:
    """Return all files and folders below `folder`, sorted by path.

    Links are followed; a folder that is reached twice is listed once.
    """
    paths: list[Path] = []
    seen: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real_place = os.path.realpath(place)
        if real_place in seen:
            folders.clear()
            continue
        seen.add(real_place)
        paths += [Path(place) / name for name in (*folders, *files)]
    return sorted(paths)


def name_fault(name: str) -> str:
    """Return why `name` cannot be the name of a file or folder; empty where it can."""
    if not name:
        return "is empty"
    if any("\ud800" <= character <= "\udfff" for character in name):
        return "is not valid UTF-8"
    if not name.isprintable():
        return "holds control characters"
    if "/" in name or "\\" in name or name in (".", ".."):
        return "contains / or \\, or is . or .., so it would name another folder"
    if len(name.encode("utf-8", "surrogatepass")) > LONGEST:
        return f"is longer than {LONGEST} bytes in UTF-8, too long for a file name"
    return ""


def check_plain(flag: str, name: str) -> None:
    """Raise UserError unless the value of --`flag` names one folder."""
    if fault := name_fault(name):
        raise UserError(
            f"--{flag} {shown(name)}: {fault}; give a name without folders, and choose the "
            "folder with --output_root"
        )


def shown(name: str) -> str:
    """Return a name for use in a message.

    Unprintable characters are escaped, and a long name is cut at 80 characters.
    """
    text = name
    if not name or not name.isprintable():
        text = ascii(name)
    if len(text) > 80:
        return f"{text[:77]}..."
    return text
