"""Writing a phantom: its folder is claimed first, every file is whole or not there, the lists come last."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from dataloaders.hdf5 import write_hdf5
from utils.errors import UserError, writing
from utils.files import remove_unfinished, replacing
from utils.lock import only_writer


def within(flag: str, value: int, least: int, most: int) -> None:
    """UserError unless `value` of --`flag` is from `least` to `most`."""
    if not least <= value <= most:
        raise UserError(f"--{flag} must be from {least} to {most}, not {value}")


@contextmanager
def claimed(root: Path, settings: dict, taken: Iterable[str]) -> Iterator[None]:
    """Make the folder and leave the settings in it, then let the block write; UserError where that fails.

    UserError too if the folder holds a phantom of other settings, or no phantom but something that one of the patterns `taken`
    matches: somebody else's data.
    """
    recipe = json.dumps(settings) + "\n"
    mark = root / "phantom.json"
    remedy = "name another folder with --root"
    with only_writer(root, remedy), writing(root, remedy):
        if mark.exists():
            if mark.read_text(encoding="utf-8") != recipe:
                raise UserError(
                    f"{mark} was written with other settings; name another folder with --root or delete this one"
                )
        elif any(next(root.glob(pattern), None) for pattern in taken):
            raise UserError(
                f"--root {root} already holds data that is no phantom; name another folder"
            )
        remove_unfinished(root)
        write_text(mark, recipe)
        yield


def write_case(
    path: Path, image: np.ndarray, label: np.ndarray, spacing: tuple[float, ...] | None = None
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    attributes = {} if spacing is None else {"spacing_mm": np.array(spacing, np.float64)}
    write_hdf5(path, {"image": image, "label": label}, attributes, compression="gzip")


def write_lists(root: Path, lists: dict[str, list[str]]) -> None:
    for name, lines in lists.items():
        write_text(root / name, "\n".join(lines) + "\n")


def write_text(path: Path, text: str) -> None:
    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
