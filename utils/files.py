"""Files that are complete or not there, names that stay where they belong, and what killed processes left behind."""

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

LONGEST = 180  # bytes of a name: file systems take 255, what is made of it has endings and perhaps a number in front
ABANDONED = 24 * 3600  # seconds without a change, for file systems without locks
UNFINISHED = re.compile(r"\.unfinished-[0-9a-f]{16}-.+")
IN_USE = "in-use.lock"  # in a scratch folder


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary file next to `path` to write to; it becomes `path` when the block ends. A failure leaves `path` as it was.

    Raises OSError, FileNotFoundError among others where the folder vanished meanwhile.
    """
    with unfinished_file(path) as unfinished:
        yield unfinished
        if not stat.S_ISREG(os.lstat(unfinished).st_mode):
            raise OSError(f"{unfinished.name} was replaced by a link while it was written")
        os.replace(unfinished, path)


@contextmanager
def unfinished_file(path: Path) -> Iterator[Path]:
    """Yield a new, empty file next to `path`, with a random name that keeps the ending; it is deleted unless the block renames it.

    It lies in the same folder because a rename across file systems is no single step. While the block runs, this process holds the
    file's lock, so that `remove_unfinished` leaves it. Raises OSError where it cannot be made.
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
        file.close()  # a sweep took it between these two lines
        with suppress(OSError):
            file.path.unlink()


def unfinished_path(path: Path) -> Path:
    """A name that nobody else gives to a file, for what is to become `path`."""
    return path.with_name(f".unfinished-{secrets.token_hex(8)}-{path.name}")


@contextmanager
def scratch(purpose: str, place: Path | None = None) -> Iterator[Path]:
    """Yield a new folder in `place`, by default the system's temporary folder, deleted when the block ends; those that killed processes
    left are deleted now."""
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
    """Delete the files below `root` that killed processes were writing; without `below`, those directly in it, and scratch folders.

    A file whose lock another process holds stays, and so does what cannot be deleted. Where the file system has no locks, files that
    changed within the last day stay too.
    """
    pattern = ".unfinished-*"
    paths = root.rglob(pattern) if below else root.glob(pattern)
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
    """A scratch folder has a lock of its own; one without it is being made, or somebody emptied it."""
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
    """Whether `path` has not changed for a day, by the clock of its disk: that of this machine may be wrong. Raises OSError."""
    with tempfile.TemporaryFile(dir=path.parent) as now:
        return os.fstat(now.fileno()).st_mtime - path.stat().st_mtime > ABANDONED


def files_below(folder: Path) -> list[Path]:
    """Files and folders below `folder`, sorted by path; linked folders too, each place once."""
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
    """Why `name` cannot name a file or folder of its own in a given folder; empty where it can."""
    if not name:
        return "is empty"
    if any("\ud800" <= character <= "\udfff" for character in name):
        return "is not valid UTF-8"
    if not name.isprintable():
        return "holds control characters"
    if "/" in name or "\\" in name or name in (".", ".."):
        return "is no plain name, it would lead elsewhere"
    if len(name.encode("utf-8", "surrogatepass")) > LONGEST:
        return f"is longer than {LONGEST} characters, too long for a file's name"
    return ""


def check_plain(flag: str, name: str) -> None:
    """UserError unless the value of --`flag` names one folder."""
    if fault := name_fault(name):
        raise UserError(
            f"--{flag} {shown(name)}: {fault}; give one plain name (where folders lie, --output_root says)"
        )


def shown(name: str) -> str:
    """A name of somebody else's choice for a message: what does not print is escaped, and the end of a long one is left out."""
    text = name if name.isprintable() and name else ascii(name)
    return text if len(text) <= 80 else f"{text[:77]}..."
