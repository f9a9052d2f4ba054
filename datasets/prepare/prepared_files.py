"""Prepared files: HDF5 with what they were made of, whole or not there, and known again when they are finished."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path

import h5py
import numpy as np

from dataloaders.digest import SOURCE_VOXELS, json_texts
from dataloaders.fingerprint import fingerprint
from dataloaders.hdf5 import content_fault, opened, read_attributes, write_hdf5
from scans.geometry import Geometry
from scans.reading import Scan, read_scan
from scans.voxel_file import Warn
from utils.errors import UserError, writing
from utils.files import replacing
from utils.json_file import read_json
from utils.provenance import sha256

PACKAGES = ("SimpleITK", "numpy", "scipy", "h5py")
OTHERS_HASH = "same_case_sha256"  # attribute of a case's last file: one hash of its other files


@dataclass(frozen=True)
class RawCase:
    """Where one case lies in the download: its image, or one a modality, each a file or the folder of a DICOM series; its label.

    `part`: which split it belongs to, where that matters for its files, or predict; `fault`: why it cannot be prepared, where that shows
    from outside. `scans`: the images where they are in memory; `images` are then only names for messages.
    """

    name: str
    images: tuple[Path, ...]
    label: Path | None = None
    part: str = ""
    fault: str = ""
    scans: tuple[Scan, ...] = ()

    def read_images(self, warn: Warn) -> list[Scan]:
        """The images, one a modality; `warn` and UserError as in `scans.reading.read_scan`."""
        if self.scans:
            return list(self.scans)
        return [read_scan(path, warn) for path in self.images]

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


def source_attributes(scan: Scan, *others: Scan) -> dict:
    """The scan's own grid, which a prediction has to go back to; ITK's world (LPS), the order of the file's indices. `others`: further
    modalities on that grid. With it the fingerprints of all of them, by which a copy is recognised however it was prepared."""
    prints = [fingerprint(one.array) for one in (scan, *others)]
    return {
        "source_shape": np.array(scan.shape, np.int64),
        "source_spacing_mm": scan.geometry.spacing,
        "source_origin_mm": scan.geometry.origin,
        "source_direction": scan.geometry.direction,
        SOURCE_VOXELS: json.dumps(prints),
    }


def read_source_voxels(path: Path) -> tuple[str, ...] | None:
    """The fingerprints of the scans that a prepared file was made of; None where the file does not have them."""
    with opened(path) as file:
        value = read_attributes(file).get(SOURCE_VOXELS)
    return None if value is None else tuple(json_texts(value))


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
        if not isinstance(before, dict):
            before = {}
        if not same:
            raise UserError(
                f"{path}: made with other settings ({_difference(before, settings)}); name another --root_path, or --redo"
            )
    with (
        writing(path, "free space or name another place with --root_path"),
        replacing(path) as unfinished,
    ):
        unfinished.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def write_output(root: Path, output: Output, attributes: Mapping) -> str:
    """Write one file and return its SHA-256; raises UserError where that fails, and leaves nothing behind then."""
    path = root / output.file
    with writing(path, "free space or name another place with --root_path"):
        path.parent.mkdir(parents=True, exist_ok=True)
        label = {} if output.label is None else {"label": output.label}
        return write_hdf5(
            path,
            {"image": output.image, **label},
            {**output.attributes, **attributes},
            **output.options,
        )


def write_case(root: Path, case: str, outputs: Sequence[Output], made_of: Mapping) -> None:
    """Write the files of a case. The last one is written when all others are there, and holds one hash of them all."""
    *others, last = outputs
    hashes = {output.file: write_output(root, output, made_of) for output in others}
    _remove_stale(root, case, last.file, kept=hashes)
    write_output(root, last, {**made_of, OTHERS_HASH: _combined(hashes)})


def _combined(hashes: Mapping[str, str]) -> str:
    """One hash of several files, given by name."""
    text = "".join(f"{name} {hashes[name]}\n" for name in sorted(hashes))
    return hashlib.sha256(text.encode()).hexdigest()


def _remove_stale(root: Path, case: str, mark: str, kept: Mapping[str, str]) -> None:
    """Remove the slices that an earlier preparation of the case wrote and this one does not have."""
    if not (root / mark).exists():
        return
    for name in _same_case(_attributes(root / mark)) or ():
        path = root / name
        is_slice = path.name.startswith(f"{case}_slice_") and path.suffix == ".h5"
        if name not in kept and is_slice and path.resolve().is_relative_to(root.resolve()):
            with writing(path, "make the folder writable"):
                path.unlink(missing_ok=True)


def finished(
    root: Path,
    mark: str,
    settings: Mapping,
    hashes: Sequence[str],
    redo: bool,
    warn: Callable[[str], None],
) -> bool:
    """Whether the case whose last file is `mark` is there, made of the same sources with the same settings, its files as they were
    written. Never with `redo`.

    Raises UserError for a file that was made otherwise, or not by this program; `warn` gets a line for a damaged one, which is made
    again.
    """
    path = root / mark
    if redo or not path.exists():
        return False
    attributes = _attributes(path)
    if attributes is None:
        warn(f"{path}: is damaged, so the case was prepared again")
        return False
    if "preparation" not in attributes:
        raise UserError(
            f"{path}: was not made by prepare_data.py; name another --root_path, or --redo to overwrite it"
        )
    if attributes["preparation"] != json.dumps(dict(settings), sort_keys=True):
        difference = _difference(_settings_of(attributes), settings)
        raise UserError(
            f"{path}: was made with other settings ({difference}); name another --root_path, or --redo"
        )
    if not _made_alike(attributes, settings, hashes):
        raise UserError(f"{path}: was made from another scan or label; --redo makes it again")
    fault = _damage(root, path, attributes)
    if fault:
        warn(f"{fault}; the case was prepared again")
    return not fault


def _attributes(path: Path) -> dict | None:
    """The attributes of a prepared file; None if it is damaged or has no image."""
    try:
        with h5py.File(path, "r") as file:
            return dict(file.attrs) if "image" in file else None
    except (OSError, RuntimeError, KeyError, TypeError, ValueError):
        return None


def _same_case(attributes: Mapping | None) -> list[str] | None:
    """The names of a case's other files, as its last file has them; None if that is damaged."""
    try:
        names = json.loads((attributes or {})["same_case"])
    except (KeyError, TypeError, ValueError):
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    return names


def _settings_of(attributes: Mapping) -> dict:
    try:
        settings = json.loads(attributes["preparation"])
    except (TypeError, ValueError):
        return {}
    return settings if isinstance(settings, dict) else {}


def _damage(root: Path, path: Path, attributes: Mapping) -> str:
    """What is wrong with the files of a case, `path` its last one; empty where all are as they were written.

    Files of older versions, which recorded no hashes, are read whole instead.
    """
    names = _same_case(attributes)
    if names is None:
        return f"{path}: does not say which other files belong to it"
    missing = [name for name in names if not (root / name).is_file()]
    if missing:
        return f"{root / missing[0]}: is missing"
    if fault := content_fault(path):
        return fault
    if OTHERS_HASH not in attributes:
        faults = (content_fault(root / name) for name in names)
        return next((fault for fault in faults if fault), "")
    if attributes[OTHERS_HASH] != _combined({name: sha256(root / name) for name in names}):
        faults = (content_fault(root / name) for name in names)
        one = next((fault for fault in faults if fault), "")
        return one or f"{path}: another of the {len(names)} files of its case has changed"
    return ""


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
