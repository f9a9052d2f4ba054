"""Case lists: the published ones in data_split, and those next to prepared data."""

from collections.abc import Iterable
from pathlib import Path

from dataloaders.hdf5 import SPLITS
from utils.errors import writing
from utils.files import replacing


def published_lists(dataset: str) -> dict[str, list[str]]:
    """The lines of each published list by file name; empty where the data set has none."""
    folder = SPLITS / dataset
    paths = sorted([*folder.glob("*.list"), *folder.glob("*.txt")])
    return {path.name: path.read_text(encoding="utf-8").splitlines() for path in paths}


def write_list(path: Path, lines: Iterable[str]) -> None:
    """Write a case list, complete or not at all. Raises UserError where that fails."""
    text = "".join(f"{line}\n" for line in lines)
    with (
        writing(path, "free space or choose another folder with --root_path"),
        replacing(path) as unfinished,
    ):
        unfinished.write_text(text, encoding="utf-8")
