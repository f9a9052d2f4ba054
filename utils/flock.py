"""Advisory locks on open files.

The system releases them when the process that holds them ends, even if it is killed.
"""

import errno
import os
import weakref
from enum import Enum
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None

OPEN_FLAGS = (
    getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)  # opening a named pipe must not block
    | getattr(os, "O_BINARY", 0)
)
HELD_ELSEWHERE = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
_open_locks: "weakref.WeakSet[LockedFile]" = weakref.WeakSet()


class Answer(Enum):
    """Result of a request for a lock."""

    TAKEN = "taken"
    HELD = "another process holds it"
    NONE = "this file system has no locks"


class LockedFile:
    """An open file that this process may lock.

    A process forked from this one closes its copy at once: it must not keep the lock of a parent
    that was killed.
    """

    def __init__(self, path: Path, flags: int = os.O_RDWR | os.O_CREAT, mode: int = 0o666) -> None:
        """Open `path`, never through a link. Raises OSError."""
        self.path = path
        self.reason = ""
        self._descriptor: int | None = os.open(path, flags | OPEN_FLAGS, mode)
        _open_locks.add(self)

    def lock(self, shared: bool = False) -> Answer:
        """Request the lock without waiting.

        `shared`: others may hold it too, if they share it as well.

        Where the file system has no locks, `reason` is its error message.
        """
        if fcntl is None:
            return self._lock_on_windows(shared)
        kind = fcntl.LOCK_EX
        if shared:
            kind = fcntl.LOCK_SH
        try:
            fcntl.flock(self._opened(), kind | fcntl.LOCK_NB)
        except OSError as error:
            return self._refused(error)
        return Answer.TAKEN

    def _lock_on_windows(self, shared: bool) -> Answer:
        """Lock the first byte.

        Windows' C library has no shared locks: a request for one succeeds without locking anything.
        """
        import msvcrt

        if shared:
            return Answer.TAKEN
        try:
            os.lseek(self._opened(), 0, os.SEEK_SET)
            msvcrt.locking(self._opened(), msvcrt.LK_NBLCK, 1)  # pyright: ignore[reportAttributeAccessIssue]
        except OSError as error:
            return self._refused(error)
        return Answer.TAKEN

    def _refused(self, error: OSError) -> Answer:
        if error.errno in HELD_ELSEWHERE:
            return Answer.HELD
        self.reason = error.strerror or str(error)
        return Answer.NONE

    def is_at_its_path(self) -> bool:
        """Return whether the path still leads to this very file.

        Whoever held the lock before may have deleted it.
        """
        opened = os.fstat(self._opened())
        try:
            at_path = os.stat(self.path, follow_symlinks=False)
        except OSError:
            return False
        return (at_path.st_dev, at_path.st_ino) == (opened.st_dev, opened.st_ino)

    def _opened(self) -> int:
        """The file's descriptor; raises ValueError once it is closed."""
        if self._descriptor is None:
            raise ValueError(f"{self.path}: the lock file is closed")
        return self._descriptor

    def close(self) -> None:
        """Release the lock."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _close_in_child() -> None:
    for file in list(_open_locks):
        file.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)
