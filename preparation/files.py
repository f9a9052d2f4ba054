"""Prepared files: HDF5 with what they were made of, whole or not there, and known again when they are finished."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path

import h5py
import numpy as np

from dataloaders.hdf5 import write_hdf5
from preparation.geometry import Geometry
from preparation.scans import Scan
from utils.errors import UserError, writing
from utils.files import replacing
from utils.json_file import read_json

PACKAGES = ("SimpleITK", "numpy", "scipy", "h5py")


@dataclass(frozen=True)
class RawCase:
    """Where one case lies in the download: its image, or one a modality, each a file or the folder of a DICOM series; its label.

    `part`: which split it belongs to, where that matters for its files, or predict; `fault`: why it cannot be prepared, where that shows
    from outside.
    """

    name: str
    images: tuple[Path, ...]
    label: Path | None = None
    part: str = ""
    fault: str = ""

    @property
    def undecodable(self) -> str:
        """A fault where the name is not valid UTF-8 (a Latin-1 file name on Linux, say), which lists could not hold; else empty."""
        try:
            self.name.encode()
        except UnicodeEncodeError:
            return f"{self.images[0]}: the name is not valid UTF-8; rename the file"
        return ""

    @property
    def sources(self) -> tuple[Path, ...]:
        return (*self.images, *([] if self.label is None else [self.label]))


@dataclass(frozen=True, eq=False)
class Output:
    """One prepared file below the data set's root: arrays, HDF5 `compression` options and attributes beside those of all files."""

    file: str
    image: np.ndarray
    label: np.ndarray | None
    attributes: Mapping
    options: Mapping = field(default_factory=dict)


def grid_attributes(geometry: Geometry, axes: Sequence[int], file_axes: str) -> dict:
    """`spacing_mm` in the order of the stored array, whose axes are the `axes` of `geometry`'s, and `affine` for indices x, y, z.

    `file_axes`: xyz where memory and file have the same order, zyx where the first stored axis is the last of a NIfTI file.
    """
    axes = tuple(axes)
    order = axes if file_axes == "xyz" else axes[::-1]
    affine = geometry.turned(order, (False,) * 3, (1, 1, 1)).affine
    return {"spacing_mm": geometry.spacing[list(axes)].astype(np.float64), "affine": affine}


def crop_attributes(start: Sequence[int], stop: Sequence[int]) -> dict:
    """The crop box: first voxel and the one after the last, in the order of the source file's indices."""
    return {"crop_start": np.asarray(start, np.int64), "crop_stop": np.asarray(stop, np.int64)}


def source_attributes(scan: Scan) -> dict:
    """The scan's own grid, which a prediction has to go back to; ITK's world (LPS), the order of the file's indices."""
    return {
        "source_shape": np.array(scan.shape, np.int64),
        "source_spacing_mm": scan.geometry.spacing,
        "source_origin_mm": scan.geometry.origin,
        "source_direction": scan.geometry.direction,
    }


def source_geometry(attributes: Mapping) -> Geometry:
    """The inverse of `source_attributes`."""
    return Geometry(
        *(
            np.asarray(attributes[f"source_{key}"])
            for key in ("spacing_mm", "origin_mm", "direction")
        )
    )


def provenance_attributes(
    settings: Mapping, names: Sequence[str], hashes: Sequence[str], others: Sequence[str]
) -> dict:
    """What a file was made of; equal attributes but for the versions mean that it need not be made again."""
    return {
        "preparation": json.dumps(dict(settings), sort_keys=True),
        "source_files": json.dumps(list(names)),
        "source_sha256": json.dumps(list(hashes)),
        "same_case": json.dumps(sorted(others)),
        "versions": versions(),
    }


@cache
def versions() -> str:
    return ", ".join(f"{name} {version(name)}" for name in PACKAGES)


def claim(root: Path, settings: Mapping, redo: bool) -> None:
    """Leave the settings in the folder; UserError where it was prepared with others: what is prepared in two ways does not mix."""
    path = root / "preparation.json"
    if path.exists() and not redo:
        try:
            before = read_json(path)
            same = before == json.loads(json.dumps(settings))
        except (OSError, ValueError):
            before, same = {}, False
        if not same:
            raise UserError(
                f"{path}: made with other settings ({_difference(before, settings)}); name another --root_path, or --redo"
            )
    with (
        writing(path, "free space or name another place with --root_path"),
        replacing(path) as unfinished,
    ):
        unfinished.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def write_output(root: Path, output: Output, attributes: Mapping) -> None:
    """Write one file; raises UserError where that fails, and leaves nothing behind then."""
    path = root / output.file
    with writing(path, "free space or name another place with --root_path"):
        path.parent.mkdir(parents=True, exist_ok=True)
        label = {} if output.label is None else {"label": output.label}
        write_hdf5(
            path,
            {"image": output.image, **label},
            {**output.attributes, **attributes},
            **output.options,
        )


def finished(root: Path, mark: str, settings: Mapping, hashes: Sequence[str], redo: bool) -> bool:
    """Whether the case whose last file is `mark` is there, made of the same sources with the same settings.

    Raises UserError for a file that was made otherwise, or not by this program, unless `redo`; a damaged one is made again.
    """
    path = root / mark
    if not path.exists():
        return False
    try:
        with h5py.File(path, "r") as file:
            attributes = dict(file.attrs)
            whole = "image" in file
    except (OSError, RuntimeError, KeyError):
        return False
    if redo and not _made_alike(attributes, settings, hashes):
        return False
    if "preparation" not in attributes:
        raise UserError(
            f"{path}: was not made by prepare_data.py; name another --root_path, or --redo to overwrite it"
        )
    if attributes["preparation"] != json.dumps(dict(settings), sort_keys=True):
        difference = _difference(json.loads(attributes["preparation"]), settings)
        raise UserError(
            f"{path}: was made with other settings ({difference}); name another --root_path, or --redo"
        )
    if not _made_alike(attributes, settings, hashes):
        raise UserError(f"{path}: was made from another scan or label; --redo makes it again")
    return whole and all((root / other).is_file() for other in json.loads(attributes["same_case"]))


def _made_alike(attributes: Mapping, settings: Mapping, hashes: Sequence[str]) -> bool:
    mine = {
        "preparation": json.dumps(dict(settings), sort_keys=True),
        "source_sha256": json.dumps(list(hashes)),
    }
    return all(attributes.get(key) == value for key, value in mine.items())


def _difference(before: Mapping, settings: Mapping) -> str:
    keys = [
        key
        for key in {**before, **settings}
        if before.get(key) != json.loads(json.dumps(settings.get(key)))
    ]
    return ", ".join(f"{key} {before.get(key)}, now {settings.get(key)}" for key in keys)[:200]
