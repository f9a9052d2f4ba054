"""Peak memory of a benchmark's kinds, each in a process of its own."""

import resource
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path


def peak_gib() -> float:
    """Largest resident memory of this process; Linux's getrusage would count what the parent held when it started us."""
    status = Path("/proc/self/status")
    if status.is_file():
        return (
            int(
                next(
                    line.split()[1]
                    for line in status.read_text().splitlines()
                    if line.startswith("VmHWM")
                )
            )
            / 2**20
        )
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        2**30 if sys.platform == "darwin" else 2**20
    )


def say_peak() -> None:
    print(f"peak memory of the process {peak_gib():.2f} GiB")


def peaks(program: str, kinds: Iterable[str], *flags: str) -> None:
    """Run the program once with each of --kinds and say its last line, which `say_peak` wrote."""
    for kind in kinds:
        ended = subprocess.run(
            [sys.executable, program, "--kinds", kind, *flags],
            capture_output=True,
            text=True,
            check=True,
        )
        print(f"{kind:<8} {ended.stdout.splitlines()[-1]}")
