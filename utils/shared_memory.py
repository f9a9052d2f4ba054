"""Shared memory (/dev/shm on Linux): processes pass tensors through it, and their locks lie in it. Containers often have little."""

import multiprocessing
import os
from pathlib import Path

from utils.errors import UserError

PLACE = Path("/dev/shm")
MORE = "give the machine more shared memory (docker run --shm-size 1g)"
PAGE = 4096  # bytes that a lock takes there
LOCKS_OF_A_PROCESS = 8  # of its queues and events, an upper bound


def free_bytes() -> int | None:
    """Free shared memory in bytes; None where the system does not show it as a folder."""
    try:
        found = os.statvfs(PLACE)
    except (AttributeError, OSError):
        return None
    return found.f_bavail * found.f_frsize


def check_locks(count: int, remedy: str = "") -> None:
    """Raise UserError where the system cannot make that many locks between processes; `remedy` begins what the message advises."""
    locks = []
    try:
        for _ in range(count):
            locks.append(multiprocessing.get_context("spawn").Lock())
    except OSError as error:
        raise UserError(
            f"{PLACE}: no room for locks between processes ({error.strerror or error}); {remedy}{MORE}"
        ) from None


def check_room(flag: str, processes: int, needed: int) -> None:
    """Raise UserError unless `needed` bytes are free for that many processes, their locks included."""
    remedy = f"use --{flag} 0, or "
    free = free_bytes()
    locks = LOCKS_OF_A_PROCESS * (processes + 1)
    total = needed + PAGE * locks
    if free is not None and free < total:
        raise UserError(
            f"--{flag} {processes}: its processes need up to {total / 1e6:.1f} MB of shared memory, "
            f"and {PLACE} has {free / 1e6:.1f} MB free; {remedy}{MORE}"
        )
    check_locks(locks, remedy=remedy)
