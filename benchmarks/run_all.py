"""Run all benchmarks that need no data: steps, peak memory, validation, batches, filter, metrics.

    python benchmarks/run_all.py

Each runs in its own process, and steps use all cores. It takes three to ten minutes on two cores;
let nothing else run meanwhile. On a machine with a GPU the ACDC step is timed there; everything
else about a GPU is measured by benchmarks/gpu.sh.
"""

import os
import platform
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROGRAMS = (
    ("acdc_step.py", "--patch_size", "128", "128", "--batch_size", "12"),
    ("vnet_step.py", "--steps", "1"),
    ("validation.py",),
    ("data.py",),
    ("filter.py",),
    ("counts.py",),
    ("metrics.py",),
)


def main() -> int:
    """Run the programs one after the other; return the number of those that failed."""
    load = "unknown"
    if hasattr(os, "getloadavg"):
        load = f"{os.getloadavg()[0]:.1f}"
    processor = platform.processor() or platform.machine()
    print(
        f"{platform.platform()}, {processor}, {os.cpu_count()} cores, load {load}",
        flush=True,
    )
    failed: list[str] = []
    for name, *flags in PROGRAMS:
        print(f"\n== {' '.join((name, *flags))}", flush=True)
        result = subprocess.run([sys.executable, str(HERE / name), *flags])
        if result.returncode:
            failed.append(name)
    if failed:
        print(f"\nfailed: {', '.join(failed)}", file=sys.stderr)
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
