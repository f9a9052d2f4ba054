"""Compare the checkpoints of two folders of runs: weights, optimiser, losses and scores must be
equal.

    python tests/compare_checkpoints.py BEFORE AFTER

Use it when a change must not change numbers: train the same run with both versions of the code
(CONTRIBUTING.md). Prints the entries that differ. The exit status is 1 if something differs or is
missing.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

PARTS = ("student", "phase", "optimizer", "scaler", "progress", "losses")


def entries(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield every tensor and number of a checkpoint with its path, such as
    `student/encoder.0.weight`.
    """
    if isinstance(value, dict):
        for key, item in value.items():
            yield from entries(item, f"{name}/{key}")
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from entries(item, f"{name}/{number}")
    else:
        yield name, value


def is_equal(first: Any, second: Any) -> bool:
    """Compare two entries exactly."""
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    return repr(first) == repr(second)  # equal for two NaN, different for 1 and 1.0


def read_entries(path: Path) -> dict[str, Any]:
    """Return the entries of a checkpoint that training computes, by their path."""
    content = torch.load(path, map_location="cpu", weights_only=True)
    result = {}
    for part in PARTS:
        result.update(entries(content[part], part))
    return result


def differences(before: Path, after: Path) -> list[str]:
    """Compare every `last.pth` below `before` with the file of the same path below `after`.

    Returns one line for each entry that differs and each file or entry that only one side has.
    Raises ValueError if there is no checkpoint to compare.
    """
    paths = set()
    for folder in (before, after):
        for path in folder.rglob("last.pth"):
            paths.add(path.relative_to(folder))
    if not paths:
        raise ValueError(f"no last.pth below {before} or {after}: train with --output_root")
    lines = []
    for path in sorted(paths):
        if not (before / path).is_file() or not (after / path).is_file():
            lines.append(f"{path}: only on one side")
            continue
        first = read_entries(before / path)
        second = read_entries(after / path)
        for name in sorted(first.keys() | second.keys()):
            if name not in first or name not in second:
                lines.append(f"{path}: {name} only on one side")
            elif not is_equal(first[name], second[name]):
                lines.append(f"{path}: {name} differs")
    return lines


def main() -> int:
    if len(sys.argv) != 3:
        print(__doc__)
        return 2
    lines = differences(Path(sys.argv[1]), Path(sys.argv[2]))
    print("\n".join(lines) or "all checkpoints are equal")
    return int(bool(lines))


if __name__ == "__main__":
    sys.exit(main())
