"""Write a phantom: claim its folder, write each file completely or not at all, lists last."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from dataloaders.hdf5 import write_hdf5
from utils.errors import UserError, writing
from utils.files import remove_unfinished, replacing
from utils.lock import only_writer


def within(flag: str, value: int, least: int, most: int) -> None:
    """Raise UserError unless `value` of --`flag` is from `least` to `most`."""
    if not least <= value <= most:
        raise UserError(f"--{flag} must be from {least} to {most}, not {value}")


@contextmanager
def claimed(root: Path, settings: Mapping[str, object], taken: Iterable[str]) -> Iterator[None]:
    """Make the folder and write the settings to it, then run the block, which writes the data.

    Raises UserError if the folder cannot be written, holds a phantom with different settings, or
    holds no phantom but files that match one of the patterns `taken`: other data.
    """
    recipe = json.dumps(settings) + "\n"
    mark = root / "phantom.json"
    remedy = "name another folder with --root"
    with only_writer(root, remedy), writing(root, remedy):
        if mark.exists():
            if mark.read_text(encoding="utf-8") != recipe:
                raise UserError(
                    f"{mark} was written with different settings; name another folder with --root "
                    f"or delete this one"
                )
        elif any(next(root.glob(pattern), None) for pattern in taken):
            raise UserError(
                f"--root {root} already holds data that is not a phantom; name another folder"
            )
        remove_unfinished(root)
        write_text(mark, recipe)
        yield


def write_case(
    path: Path, image: np.ndarray, label: np.ndarray, spacing: Sequence[float] | None = None
) -> None:
    """Write a case as HDF5; `spacing` in mm, in the order of the array's axes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    attributes = {}
    if spacing is not None:
        attributes["spacing_mm"] = np.array(spacing, np.float64)
    write_hdf5(path, {"image": image, "label": label}, attributes, compression="gzip")


def write_lists(root: Path, lists: Mapping[str, Sequence[str]]) -> None:
    """Write lists of cases by file name, one case per line."""
    for name, lines in lists.items():
        write_text(root / name, "\n".join(lines) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file completely or not at all."""
    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
