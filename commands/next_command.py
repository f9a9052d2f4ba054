"""The command that comes next, which scripts that make or check data print."""

import shlex
from pathlib import Path


def next_command(*words: str | Path) -> str:
    """The end of a message that names the next command. `words`: the script and its flags."""
    return f"next: python {shlex.join(map(str, words))}"


def next_preparation(source: Path) -> str:
    """As `next_command`, for the preparation of raw scans in nnU-Net's layout."""
    root = source.parent / f"{source.name}_prepared"
    flags = ("--dataset", "own", "--source", source, "--root_path", root)
    return next_command("code/prepare_data.py", *flags)
