"""Case lists beside prepared data: the published ones, without the cases that are not there."""

from collections.abc import Callable
from pathlib import Path

from dataloaders.hdf5 import SPLITS
from utils.errors import writing
from utils.files import replacing


def published_lists(dataset: str) -> dict[str, list[str]]:
    """File name to lines, as committed in data_split."""
    paths = sorted([*(SPLITS / dataset).glob("*.list"), *(SPLITS / dataset).glob("*.txt")])
    return {path.name: path.read_text(encoding="utf-8").splitlines() for path in paths}


def write_lists(
    root: Path, dataset: str, file: Callable[[str], str], line: Callable[[str], str] = str
) -> list[str]:
    """Write each published list below `root` with the lines whose file is there, and say where lines are left out.

    `file` gives a line's file below the root, `line` what the list is to hold for it. A complete list is the published one, byte for byte.
    """
    said = []
    for name, lines in published_lists(dataset).items():
        there = [entry for entry in lines if (root / file(entry)).is_file()]
        if len(there) < len(lines):
            said.append(
                f"{name} names {len(there)} of {len(lines)} published entries: the others are not prepared"
            )
        write_list(root / name, [line(entry) for entry in there])
    return said


def write_list(path: Path, names: list[str]) -> None:
    with (
        writing(path, "free space or name another place with --root_path"),
        replacing(path) as unfinished,
    ):
        unfinished.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
