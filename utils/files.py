"""Files that are complete or not there, names that stay where they belong, and what killed processes left behind."""

import hashlib
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from utils.errors import UserError

LONGEST = 180  # bytes of a name: file systems take 255, what is made of it has endings and perhaps a number in front
ABANDONED = (
    7 * 24 * 3600
)  # seconds after which another machine's unfinished file counts as left behind
UNFINISHED = re.compile(r"\.unfinished-([0-9a-f]{8})-(\d+)-.+")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path` to write to; `path` is replaced when the block ends, a failure leaves it as it was.

    The temporary name keeps the ending, which some writers go by, and lies in the same folder, because a rename across file
    systems is no single step.
    """
    unfinished = unfinished_path(path)
    try:
        yield unfinished
        os.replace(unfinished, path)
    finally:
        with suppress(OSError):  # moved, or the folder is gone
            unfinished.unlink()


def unfinished_path(path: Path) -> Path:
    """Where this process writes what is to become `path`: a name that tells machine and process, and that nobody else gives a file."""
    return path.with_name(f".unfinished-{machine()}-{os.getpid()}-{path.name}")


@cache
def machine() -> str:
    """Eight digits for this computer; several of them may share a disk."""
    return hashlib.blake2b(platform.node().encode(), digest_size=4).hexdigest()


@contextmanager
def scratch(purpose: str) -> Iterator[Path]:
    """Yield a new folder among the system's temporary ones, which goes when the block ends; what killed processes left there goes now."""
    remove_unfinished(Path(tempfile.gettempdir()), below=False)
    with tempfile.TemporaryDirectory(
        prefix=f".unfinished-{machine()}-{os.getpid()}-{purpose}-", ignore_cleanup_errors=True
    ) as folder:
        yield Path(folder)


def remove_unfinished(root: Path, below: bool = True) -> None:
    """Take away the files that processes which were killed while they wrote have left below `root`; without `below`, those right in it,
    and scratch folders. What living ones write stays, and so does what other machines began less than a week ago, and what cannot be
    removed."""
    for path in root.rglob(".unfinished-*") if below else root.glob(".unfinished-*"):
        found = UNFINISHED.fullmatch(path.name)
        folder = not below and path.is_dir()
        if (
            found
            and not path.is_symlink()
            and (folder or path.is_file())
            and left_behind(path, found[1], int(found[2]))
        ):
            with suppress(OSError):
                shutil.rmtree(path) if folder else path.unlink()


def left_behind(path: Path, computer: str, process: int) -> bool:
    """Whether nobody works on `path` any more, which was made by that process of that computer. The age of another computer's is by the
    clock that the disk goes by: this one's may be wrong."""
    if computer == machine():
        return not alive(process)
    try:
        with tempfile.TemporaryFile(dir=path.parent) as now:
            return os.fstat(now.fileno()).st_mtime - path.stat().st_mtime > ABANDONED
    except OSError:
        return False


def alive(process: int) -> bool:
    """Whether a process of that number runs on this machine."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass
    return True


def name_fault(name: str) -> str:
    """Why `name` cannot name a file or folder of its own in a given folder; empty where it can."""
    if not name.isprintable():
        return "holds control characters"
    if "/" in name or "\\" in name or name in ("", ".", ".."):
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
