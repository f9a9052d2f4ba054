"""Measure the peak memory of a benchmark's kinds, each in its own process."""

import resource
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path


def peak_gib() -> float:
    """Return the largest resident memory of this process.

    On Linux it is read from /proc, because getrusage would count the memory that the parent had
    when it started this process.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if sys.platform == "darwin":
        return peak / 2**30
    return peak / 2**20


def say_peak() -> None:
    """Print the peak memory of this process."""
    print(f"peak memory of the process {peak_gib():.2f} GiB")


def peaks(program: str, kinds: Iterable[str], *flags: str) -> None:
    """Run the program once with each of --kinds and print its last line, that of `say_peak`."""
    for kind in kinds:
        command = [sys.executable, program, "--kinds", kind, *flags]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        print(f"{kind:<8} {result.stdout.splitlines()[-1]}")
