"""Every benchmark that needs no data, one after the other: steps with their peak memory, validation, batches, component filter, metrics.

    python benchmarks/run_all.py

Each in a process of its own, with all cores where it times a step. Three to ten minutes on two cores; nothing else should run meanwhile.
On a machine with a GPU the ACDC step is timed there; all else that a GPU has to say is asked by benchmarks/gpu.sh.
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
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    print(
        f"{platform.platform()}, {platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {load}",
        flush=True,
    )
    failed = []
    for name, *flags in PROGRAMS:
        print(f"\n== {' '.join((name, *flags))}", flush=True)
        if subprocess.run([sys.executable, str(HERE / name), *flags]).returncode:
            failed.append(name)
    if failed:
        print(f"\nfailed: {', '.join(failed)}", file=sys.stderr)
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
