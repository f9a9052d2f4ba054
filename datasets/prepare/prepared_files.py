"""Prepared files: HDF5 with the provenance of each, complete or absent, and recognised when they
are finished.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

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
OTHERS_HASH = "same_case_sha256"
"""Attribute of a case's last file: one hash of its other files."""
GZIP: Mapping[str, Any] = {"compression": "gzip"}
OTHER_SETTINGS = "use another --root_path, or --redo"
"""The remedy where files were made with different settings."""
FLAGS = ("crop", "variant", "size")
"""Settings of published data sets that flags of the same name choose."""
NO_SPACE = "free space or choose another folder with --root_path"


@dataclass(frozen=True)
class RawCase:
    """The raw files of one case.

    `images`: one for each modality, a file or the folder of a DICOM series. `part`: the split of
    the case where that decides which files it gets, or predict. `fault`: why the case cannot be
    prepared, if its files need not be read to see it. `scans`: the images where they are in memory;
    `images` are then only names for messages.
    """

    name: str
    images: tuple[Path, ...]
    label: Path | None = None
    part: str = ""
    fault: str = ""
    scans: tuple[Scan, ...] = ()

    def read_images(self, warn: Warn) -> list[Scan]:
        """Read the image of each modality; `warn` and UserError as in `scans.reading.read_scan`."""
        if self.scans:
            return list(self.scans)
        return [read_scan(path, warn) for path in self.images]

    @property
    def undecodable(self) -> str:
        """A fault where the name is not valid UTF-8 (a Latin-1 file name on Linux, say), which no
        list can hold; else empty.
        """
        try:
            self.name.encode()
        except UnicodeEncodeError:
            return f"{self.images[0]}: the name is not valid UTF-8; rename the file"
        return ""

    @property
    def sources(self) -> tuple[Path, ...]:
        """The images and the label."""
        if self.label is None:
            return self.images
        return (*self.images, self.label)


@dataclass(frozen=True, eq=False)
class Output:
    """One prepared file: its path relative to the data set's root, arrays, own attributes and HDF5
    compression `options`.
    """

    file: str
    image: np.ndarray
    label: np.ndarray | None
    attributes: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict)


def slice_outputs(
    image: np.ndarray,
    label: np.ndarray | None,
    file_of: Callable[[int], str],
    spacing_mm: np.ndarray,
) -> Iterator[Output]:
    """Yield a file for each plane along the first axis of image and label; `file_of` names it by
    its number, from 1.

    `spacing_mm`: of the volume, in the order of its axes.
    """
    planes = [None] * len(image) if label is None else label
    for index, (plane, label_plane) in enumerate(zip(image, planes, strict=True)):
        yield Output(
            file_of(index + 1),
            image=plane,
            label=label_plane,
            attributes={"spacing_mm": spacing_mm[1:], "slice": index},
            options=GZIP,
        )


def grid_attributes(geometry: Geometry, axes: Sequence[int], file_axes: str) -> dict[str, Any]:
    """`spacing_mm` in the order of the stored array, whose axes are the `axes` of `geometry`'s, and
    `affine` for indices x, y, z.

    `file_axes`: xyz where memory and file have the same order, zyx where the first stored axis is
    the last of a NIfTI file.
    """
    order = tuple(axes)
    if file_axes == "zyx":
        order = tuple(reversed(order))
    affine = geometry.turned(order, (False,) * 3, (1, 1, 1)).affine
    return {"spacing_mm": geometry.spacing[list(axes)].astype(np.float64), "affine": affine}


def crop_attributes(start: Sequence[int], stop: Sequence[int]) -> dict[str, Any]:
    """The crop box: first voxel and the one after the last, along the source file's axes."""
    return {"crop_start": np.asarray(start, np.int64), "crop_stop": np.asarray(stop, np.int64)}


def source_attributes(scan: Scan, *others: Scan) -> dict[str, Any]:
    """The raw scan's grid, to which a prediction is resampled, in ITK's world (LPS) and the order
    of the file's axes.

    `others`: further modalities on that grid. The fingerprints of all of them are included, by
    which a copy of a scan is recognised however it was prepared.
    """
    fingerprints = [fingerprint(one.array) for one in (scan, *others)]
    return {
        "source_shape": np.array(scan.shape, np.int64),
        "source_spacing_mm": scan.geometry.spacing,
        "source_origin_mm": scan.geometry.origin,
        "source_direction": scan.geometry.direction,
        SOURCE_VOXELS: json.dumps(fingerprints),
    }


def read_source_voxels(path: Path) -> tuple[str, ...] | None:
    """The fingerprints of the scans that a prepared file was made from; None where the file does
    not have them.
    """
    with opened(path) as file:
        value = read_attributes(file).get(SOURCE_VOXELS)
    if value is None:
        return None
    return tuple(json_texts(value))


def source_geometry(attributes: Mapping[str, Any]) -> Geometry:
    """The inverse of `source_attributes`."""
    return Geometry(
        spacing=np.asarray(attributes["source_spacing_mm"]),
        origin=np.asarray(attributes["source_origin_mm"]),
        direction=np.asarray(attributes["source_direction"]),
    )


def provenance_attributes(
    settings: Mapping[str, Any], names: Sequence[str], hashes: Sequence[str], others: Sequence[str]
) -> dict[str, str]:
    """What a file was made from: settings, names and hashes of the raw files, and the other files
    of the case.

    A file whose attributes, except the versions, are equal need not be made again.
    """
    return {
        "preparation": settings_text(settings),
        "source_files": json.dumps(list(names)),
        "source_sha256": json.dumps(list(hashes)),
        "same_case": json.dumps(sorted(others)),
        "versions": versions(),
    }


def settings_text(settings: Mapping[str, Any]) -> str:
    """The settings as prepared files record them."""
    return json.dumps(dict(settings), sort_keys=True)


@cache
def versions() -> str:
    """The versions of the packages that compute prepared files."""
    return ", ".join(f"{name} {version(name)}" for name in PACKAGES)


def claim(root: Path, settings: Mapping[str, Any], redo: bool, only_some: bool = False) -> None:
    """Write the settings into the folder.

    Raises UserError where it has different ones: files of two preparations must not be mixed.

    With `redo` they are overwritten, but not if `only_some` of the cases are prepared.
    """
    path = root / "preparation.json"
    if path.exists() and (only_some or not redo):
        _check_settings(path, settings, only_some=only_some)
    with writing(path, NO_SPACE), replacing(path) as unfinished:
        unfinished.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def other_settings_of_some(differing: Sequence[str]) -> str:
    """The remedy where only some cases would be prepared with settings different from the others'.

    `differing`: the flags or entries of dataset.json that differ, none if no flag chooses them.
    """
    same = ""
    if differing:
        same = f"the same {', '.join(differing)} as for the other cases, "
    return f"use another --root_path, {same}or --redo without --cases to prepare all"


def _check_settings(path: Path, settings: Mapping[str, Any], only_some: bool) -> None:
    try:
        before = read_json(path)
    except (OSError, ValueError):
        before = {}
    if before == json.loads(json.dumps(settings)):
        return
    if not isinstance(before, dict):
        before = {}
    remedy = OTHER_SETTINGS
    if only_some:
        differing = _differing(before, settings)
        remedy = other_settings_of_some([f"--{key}" for key in differing if key in FLAGS])
    raise UserError(
        f"{path}: made with different settings ({_difference(before, settings)}); {remedy}"
    )


def write_output(root: Path, output: Output, attributes: Mapping[str, Any]) -> str:
    """Write one file and return its SHA-256.

    Raises UserError where that fails; no part of the file remains then.
    """
    path = root / output.file
    data = {"image": output.image}
    if output.label is not None:
        data["label"] = output.label
    with writing(path, NO_SPACE):
        path.parent.mkdir(parents=True, exist_ok=True)
        return write_hdf5(path, data, {**output.attributes, **attributes}, **output.options)


def write_case(
    root: Path, case: str, outputs: Sequence[Output], attributes: Mapping[str, Any]
) -> None:
    """Write the files of a case.

    The last one is written after all others, and has one hash of all of them.

    `attributes`: of every file, in addition to its own.
    """
    *others, last = outputs
    hashes = {output.file: write_output(root, output, attributes) for output in others}
    for path in _stale_slices(root, case, last_file=last.file, kept=hashes):
        with writing(path, "make the folder writable"):
            path.unlink(missing_ok=True)
    write_output(root, last, {**attributes, OTHERS_HASH: _combined_hash(hashes)})


def _combined_hash(hashes: Mapping[str, str]) -> str:
    """One hash of several files, whose hashes are given by name."""
    text = "".join(f"{name} {hashes[name]}\n" for name in sorted(hashes))
    return hashlib.sha256(text.encode()).hexdigest()


def _stale_slices(root: Path, case: str, last_file: str, kept: Collection[str]) -> set[Path]:
    """The slices that an earlier preparation of the case wrote and that are not in `kept`.

    They are found by the record in the case's last file and, in the folders of the new slices, by
    their names: the last file may have been deleted.
    """
    paths = {root / name for name in _recorded_slices(root, case, last_file=last_file)}
    for folder in {(root / name).parent for name in kept}:
        paths.update(_numbered_slices(folder, case))
    return paths - {root / name for name in kept}


def _recorded_slices(root: Path, case: str, last_file: str) -> Iterator[str]:
    """The slices, relative to the root, that the case's last file records."""
    if not (root / last_file).exists():
        return
    for name in _same_case(_attributes(root / last_file)) or ():
        path = root / name
        is_slice = path.name.startswith(f"{case}_slice_") and path.suffix == ".h5"
        if is_slice and path.resolve().is_relative_to(root.resolve()):
            yield name


def _numbered_slices(folder: Path, case: str) -> Iterator[Path]:
    """The slices of the case in the folder, from number 1 to the last before a gap."""
    number = 1
    path = folder / f"{case}_slice_{number}.h5"
    while path.is_file():
        yield path
        number += 1
        path = folder / f"{case}_slice_{number}.h5"


def finished(
    root: Path,
    last_file: str,
    settings: Mapping[str, Any],
    hashes: Sequence[str],
    has_slices: bool,
    redo: bool,
    warn: Callable[[str], None],
) -> bool:
    """Whether the case with this last file is complete, unchanged, and made from the same raw files
    with the same settings.

    `hashes`: of the raw files. `has_slices`: whether its files must include slices. A case has none
    if it was prepared for validation or test. The result is False with `redo`. Raises UserError for
    a file that was made differently, or not by this program; `warn` is called with a line about a
    damaged one, which is made again.
    """
    path = root / last_file
    if redo or not path.exists():
        return False
    attributes = _attributes(path)
    if attributes is None:
        warn(f"{path}: is damaged, so the case was prepared again")
        return False
    if "preparation" not in attributes:
        raise UserError(
            f"{path}: was not made by prepare_data.py; use another --root_path, or --redo to "
            "overwrite it"
        )
    if attributes["preparation"] != settings_text(settings):
        difference = _difference(_settings_of(attributes), settings)
        raise UserError(
            f"{path}: was made with different settings ({difference}); use another --root_path, or "
            "--redo"
        )
    if attributes.get("source_sha256") != json.dumps(list(hashes)):
        raise UserError(f"{path}: was made from another scan or label; --redo makes it again")
    fault = _damage(root, path, attributes)
    if not fault and has_slices and not _same_case(attributes):
        fault = f"{path}: has no slices, which training needs"
    if fault:
        warn(f"{fault}; the case was prepared again")
    return not fault


def _attributes(path: Path) -> dict[str, Any] | None:
    """The attributes of a prepared file; None if it is damaged or has no image."""
    try:
        with h5py.File(path, "r") as file:
            if "image" not in file:
                return None
            return dict(file.attrs)
    except (OSError, RuntimeError, KeyError, TypeError, ValueError):
        return None


def _same_case(attributes: Mapping[str, Any] | None) -> list[str] | None:
    """The names of a case's other files, as its last file has them; None if that is damaged."""
    if attributes is None:
        return None
    try:
        names = json.loads(attributes["same_case"])
    except (KeyError, TypeError, ValueError):
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    return names


def _settings_of(attributes: Mapping[str, Any]) -> dict[str, Any]:
    try:
        settings = json.loads(attributes["preparation"])
    except (TypeError, ValueError):
        return {}
    if not isinstance(settings, dict):
        return {}
    return settings


def _damage(root: Path, path: Path, attributes: Mapping[str, Any]) -> str:
    """What is wrong with the files of a case, `path` its last one; empty where all are as they were
    written.

    Of files of older versions, which have no hashes, only the content is read.
    """
    names = _same_case(attributes)
    if names is None:
        return f"{path}: does not record which other files belong to it"
    files = [root / name for name in names]
    missing = [file for file in files if not file.is_file()]
    if missing:
        return f"{missing[0]}: is missing"
    fault = content_fault(path)
    if fault:
        return fault
    if OTHERS_HASH not in attributes:
        return _first_fault(files)
    hashes = {name: sha256(root / name) for name in names}
    if attributes[OTHERS_HASH] == _combined_hash(hashes):
        return ""
    return (
        _first_fault(files) or f"{path}: another of the {len(names)} files of its case has changed"
    )


def _first_fault(files: Sequence[Path]) -> str:
    for file in files:
        fault = content_fault(file)
        if fault:
            return fault
    return ""


def _difference(before: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """The settings that differ, with both values, for one line."""
    differences = []
    for key, (earlier, now) in _differing(before, settings).items():
        differences.append(f"{key} {earlier}, now {now}")
    return ", ".join(differences)[:200]


def _differing(
    before: Mapping[str, Any], settings: Mapping[str, Any]
) -> dict[str, tuple[Any, Any]]:
    """Both values of each setting that differs, as JSON has them."""
    now = json.loads(json.dumps(dict(settings)))
    return {
        key: (before.get(key), now.get(key))
        for key in {**before, **now}
        if before.get(key) != now.get(key)
    }
