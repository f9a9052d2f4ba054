"""The origin of a result: command, versions, machine and commit."""

import hashlib
import platform
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from utils.cli import command_line

PACKAGES = ("torch", "numpy", "scipy", "h5py", "connected-components-3d", "antspyx")


def provenance() -> dict[str, Any]:
    """Return command, date, versions, machine and git commit of this process; see `git_commit`."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        versions[name] = _version(name)
    return {
        "command": command_line(),
        "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "machine": f"{platform.system()} {platform.machine()}",
        "versions": versions,
        "git_commit": git_commit(),
    }


def origin_lines() -> list[str]:
    """Return command, versions, machine and git commit as lines of a log."""
    origin = provenance()
    versions = ", ".join(f"{name} {number}" for name, number in origin["versions"].items())
    return [
        f"command: {origin['command']}",
        f"versions: {versions}; {origin['machine']}; commit {origin['git_commit']}",
    ]


def git_commit() -> str | None:
    """Return the commit of the checkout; None outside a checkout.

    "+changes" follows it if there are uncommitted changes.
    """
    here = Path(__file__).resolve().parents[1]
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "status", "--porcelain", "-uno"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    if changed.strip():
        return f"{commit}+changes"
    return commit


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file.

    The file is read in blocks because it may be larger than memory.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
