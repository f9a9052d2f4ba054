"""Shared memory (/dev/shm on Linux), which holds the tensors and locks that processes share.

Containers often have little of it.
"""

import multiprocessing
import os
from pathlib import Path

from utils.errors import UserError

PLACE = Path("/dev/shm")
MORE = "give the machine more shared memory (docker run --shm-size 1g)"
LOCK_BYTES = 4096  # shared memory of one lock
LOCKS_OF_A_PROCESS = 8  # upper bound, for its queues and events


def free_bytes() -> int | None:
    """Free shared memory in bytes; None where the system does not show it as a folder."""
    try:
        status = os.statvfs(PLACE)
    except (AttributeError, OSError):
        return None
    return status.f_bavail * status.f_frsize


def check_locks(count: int, remedy: str = "") -> None:
    """Raise UserError if the system cannot make that many locks between processes.

    `remedy`: the first advice in its message.
    """
    locks = []
    try:
        for _ in range(count):
            locks.append(multiprocessing.get_context("spawn").Lock())
    except OSError as error:
        raise UserError(
            f"{PLACE}: no room for locks between processes ({error.strerror or error}); "
            f"{remedy}{MORE}"
        ) from None


def check_room(flag: str, processes: int, needed: int) -> None:
    """Raise UserError unless `needed` bytes are free for that many processes.

    Their locks are included.
    """
    remedy = f"use --{flag} 0, or "
    free = free_bytes()
    locks = LOCKS_OF_A_PROCESS * (processes + 1)
    total = needed + LOCK_BYTES * locks
    if free is not None and free < total:
        raise UserError(
            f"--{flag} {processes}: its processes need up to {total / 1e6:.1f} MB of shared "
            f"memory, and {PLACE} has {free / 1e6:.1f} MB free; {remedy}{MORE}"
        )
    check_locks(locks, remedy=remedy)
