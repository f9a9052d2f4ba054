"""The files of predictions: label maps, probabilities, and predict.json, which records them."""

import json
import zipfile
import zlib
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import NoneType
from typing import Any, TypeGuard

import numpy as np

from commands.png_files import read_png, write_png
from commands.predict_uncertainty import (
    FEATURES,
    FOREGROUND,
    MAPS,
    PASSES,
    UNCERTAINTY,
    Uncertainty,
    rankings,
)
from datasets.prepare.prepared_files import RawCase, source_geometry
from scans.formats import nifti_header
from scans.nifti_writer import write_nifti, write_nifti_like
from scans.nrrd_format import write_nrrd
from scans.reading import read_scan, sha256
from utils.errors import UserError
from utils.files import replacing, unfinished_file
from utils.json_file import read_json
from utils.provenance import sha256 as file_hash

FILE_HASH = "file_sha256"  # key of a case's record
PROBABILITIES_HASH = "probabilities_sha256"  # key of a case's record
MAP_HASH = "sha256"  # key of an uncertainty map's record
RANKING = "ranking"  # key of the file: the cases by kind of map, the most uncertain one first
IMAGES = "images"  # key of a case's record: the files of the scan
CHECKPOINTS = "checkpoints"  # setting of all predictions: the hashes of the checkpoints
OF_EACH_CHECKPOINT = ("patch_size", "stride")  # settings that have a value for each checkpoint
MEMBER = "probabilities.npy"  # the only member of a .npz with probabilities
NRRD = (".nrrd", ".nhdr")
Record = dict[str, Any]


def output_name(case: RawCase) -> str:
    """The prediction's file below the output folder.

    PNG for pictures, NRRD for NRRD, NIfTI for everything else.
    """
    name = case.images[0].name.lower()
    if name.endswith(".png"):
        return f"{case.name}.png"
    if name.endswith(NRRD):
        return f"{case.name}.nrrd"
    return f"{case.name}.nii.gz"


def write_labels(
    path: Path, labels: np.ndarray, source: Path, attributes: Mapping[str, Any]
) -> None:
    """Write label values in the order of the source's indices, with its geometry.

    Those of a picture are (1, H, W).
    """
    if path.suffix == ".png":
        write_png(path, labels[0])
    else:
        _write_volume(path, labels, source, attributes)


def map_name(case: RawCase, kind: str) -> str:
    """The file of an uncertainty map below the output folder; of a picture it is NIfTI too."""
    ending = ".nii.gz"
    if output_name(case).endswith(".nrrd"):
        ending = ".nrrd"
    return f"{case.name}_uncertainty_{kind}{ending}"


def feature_name(case: RawCase) -> str:
    """The file with the network's mean feature below the output folder."""
    return f"{case.name}_features.npy"


def map_files(record: Record) -> list[str]:
    """The names of the uncertainty maps and of the feature in a case's record."""
    about = record.get(UNCERTAINTY, {})
    names = [of_map["file"] for of_map in about.get(MAPS, {}).values()]
    if FEATURES in about:
        names.append(about[FEATURES])
    return names


def write_map(path: Path, array: np.ndarray, source: Path, attributes: Mapping[str, Any]) -> None:
    """Write an uncertainty map (float32) as `write_labels` does; of a picture as a NIfTI file with
    pixels of 1 mm.
    """
    if attributes:
        _write_volume(path, array, source, attributes)
    else:
        write_nifti(path, array)


def write_feature(path: Path, feature: np.ndarray) -> None:
    """Write a vector to a .npy file, which is replaced when the new one is complete."""
    with replacing(path) as unfinished:
        np.save(unfinished, feature)


def _write_volume(
    path: Path, array: np.ndarray, source: Path, attributes: Mapping[str, Any]
) -> None:
    """Write an array in the order of the source's indices, with its geometry."""
    geometry = source_geometry(attributes)
    header = None
    if source.is_file():
        header = nifti_header(source)
    if path.suffix == ".nrrd":
        write_nrrd(path, array, geometry)
    elif header is not None:
        write_nifti_like(path, array, header)
    else:
        write_nifti(path, array.T, affine=geometry.affine)


class ProbabilityFile:
    """Probabilities (classes first) that become `probabilities` in the .npz file `path`.

    Until then they are on disk, so that they take no memory. `array`: to be filled, background
    everywhere at first.
    """

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        """Raises OSError where the file cannot be made."""
        self._path = path
        with ExitStack() as stack:
            self._scratch = stack.enter_context(unfinished_file(path.with_name(f"{path.name}.npy")))
            self.array = np.lib.format.open_memmap(self._scratch, "w+", np.float32, shape)
            self.array[0] = 1
            self._files = stack.pop_all()

    def write(self) -> None:
        """Write the .npz file. Raises OSError where that fails; there is no file then."""
        self.array.flush()
        with (
            replacing(self._path) as unfinished,
            zipfile.ZipFile(unfinished, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        ):
            archive.write(self._scratch, MEMBER)

    def discard(self) -> None:
        """Delete the array on disk; may be called again."""
        self._files.close()


class Records:
    """predict.json of a folder: which cases were predicted, from which files and by what.

    For one of several parts it is predict_<i>of<n>.json. `known` has the records of all parts by
    case, and those of earlier calls.
    """

    def __init__(
        self,
        folder: Path,
        part: str | None,
        about: Mapping[str, Any],
        made_with: Mapping[str, Any],
        overwrite: bool,
    ) -> None:
        """Read the records in the folder.

        `about`: what is written of the networks. `made_with`: everything that predictions depend
        on. Raises UserError if there are predictions of other networks or settings; with
        `overwrite`, their records are deleted.
        """
        name = "predict.json"
        if part:
            name = f"predict_{part.replace('/', 'of')}.json"
        self.path = folder / name
        self.overwrite = overwrite
        self.known: dict[str, Record] = {}
        self._about = dict(about)
        self._made_with = _as_json(made_with)
        self._written: dict[str, Record] = {}
        for path in sorted(folder.glob("predict*.json")):
            content = read_records(path)
            if content["made_with"] == self._made_with:
                self.known |= content["cases"]
                if path == self.path or not part:
                    self._written |= content["cases"]
            elif overwrite:
                path.unlink()
            else:
                keys = _differences(content["made_with"], self._made_with)
                raise UserError(
                    f"{path}: contains predictions with different {', '.join(keys)}; name another "
                    f"--output, or use --overwrite"
                )

    def finished(
        self,
        folder: Path,
        case: RawCase,
        made_of: Mapping[str, Any],
        probabilities: bool,
        uncertainty: Uncertainty,
    ) -> bool:
        """Whether the case is already predicted and its files are as they were written.

        `probabilities`, `uncertainty`: the files that are needed in addition to the labels. Raises
        UserError for a file of another source or program, and for one that has changed.
        """
        path = folder / output_name(case)
        record = self.known.get(case.name)
        if self.overwrite or not path.exists():
            return False
        if record is None:
            raise UserError(
                f"{path}: exists, but is not in {self.path.name}; name another --output, or "
                f"use --overwrite"
            )
        if any(record.get(key) != value for key, value in _as_json(made_of).items()):
            raise UserError(
                f"{path}: was made of another scan, or with another --box; name another --output, "
                f"or use --overwrite"
            )
        if not _is_as_written(path, record.get(FILE_HASH)):
            return False
        if uncertainty.kinds and not _has_maps(folder, record, uncertainty):
            return False
        return not probabilities or _has_probabilities(probabilities_path(folder, case), record)

    def ranking(self) -> dict[str, list[str]]:
        """The names of all known cases by kind of uncertainty map, the most uncertain one first."""
        return rankings(self.known)

    def begin(self, name: str, record: Mapping[str, Any]) -> None:
        """Record that the case is being predicted: its files do not count until `add` is called."""
        self.add(name, {**record, FILE_HASH: ""})

    def add(self, name: str, record: Mapping[str, Any]) -> None:
        """Record a predicted case, and write the file."""
        self.known[name] = dict(record)
        self._written[name] = dict(record)
        cases = dict(sorted(self._written.items()))
        content = self._about | {"made_with": self._made_with}
        ranking = rankings(cases)
        if ranking:
            content[RANKING] = ranking
        content["cases"] = cases
        with replacing(self.path) as unfinished:
            unfinished.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """The keys whose values differ, or that only one of the two has.

    With other checkpoints, settings that are listed for each checkpoint are not compared.
    """
    keys = {**second, **first}
    differing = [key for key in keys if first.get(key) != second.get(key)]
    if CHECKPOINTS not in differing:
        return differing
    return [key for key in differing if key not in OF_EACH_CHECKPOINT]


def _as_json(values: Mapping[str, Any]) -> Record:
    """The values as a JSON file returns them: tuples become lists."""
    return json.loads(json.dumps(values))


def _is_as_written(path: Path, recorded: str | None) -> bool:
    """Whether a label map is the file that was written.

    `recorded`: its SHA-256. It is empty while the file is being written, and None in records of
    older versions, whose files only have to be readable. Raises UserError for a label map that
    somebody changed: it may hold corrections.
    """
    if recorded == "":
        return False
    if recorded is not None and recorded == file_hash(path):
        return True
    readable = _is_readable(path)
    if readable and recorded is not None:
        raise UserError(
            f"{path}: has changed since it was predicted; move it to keep it, or predict it again "
            f"with --overwrite"
        )
    return readable


def _is_readable(path: Path) -> bool:
    try:
        if path.suffix == ".png":
            read_png(path)
        else:
            read_scan(path)
    except UserError:
        return False
    return True


def probabilities_path(folder: Path, case: RawCase) -> Path:
    """The file of a case's probabilities."""
    return folder / f"{case.name}.npz"


def _has_probabilities(path: Path, record: Record) -> bool:
    """Whether the probabilities of a case are as they were written.

    Those of an older version only have to be complete.
    """
    if not path.is_file():
        return False
    if FILE_HASH in record:
        return record.get(PROBABILITIES_HASH) == file_hash(path)
    return is_probability_file(path)


def _has_maps(folder: Path, record: Record, uncertainty: Uncertainty) -> bool:
    """Whether the uncertainty maps of a case are those that are asked for, as they were written."""
    about = record.get(UNCERTAINTY, {})
    maps = about.get(MAPS, {})
    if {"kinds": sorted(maps), PASSES: about.get(PASSES)} != uncertainty.made_with:
        return False
    for of_map in maps.values():
        path = folder / of_map["file"]
        if not path.is_file() or of_map.get(MAP_HASH) != file_hash(path):
            return False
    return FEATURES not in about or (folder / about[FEATURES]).is_file()


def is_probability_file(path: Path) -> bool:
    """Whether a file is a complete .npz of ours."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist() == [MEMBER] and archive.testzip() is None
    except (OSError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error):
        return False


def made_of(case: RawCase, box: tuple[int, ...]) -> Record:
    """Everything that a prediction depends on, apart from the networks."""
    return {
        "sources": [path.name for path in case.images],
        "sha256": [sha256(path) for path in case.images],
        "box": list(box),
    }


def read_records(path: Path) -> Record:
    """Read a file of records. Raises UserError if it is not one."""
    try:
        content = read_json(path)
    except (OSError, ValueError):
        content = None
    if not _is_record_file(content):
        raise UserError(f"{path}: not a record of predictions; remove it, or name another --output")
    return content


def _is_record_file(content: object) -> TypeGuard[Record]:
    if not isinstance(content, dict):
        return False
    cases = content.get("cases")
    if not isinstance(cases, dict) or not isinstance(content.get("made_with"), dict):
        return False
    return all(_is_record(record) for record in cases.values())


def _is_record(record: object) -> bool:
    """Whether a case's record has the shape in which it is written."""
    if not isinstance(record, dict):
        return False
    classes = record.get("classes", {})
    if not isinstance(classes, dict):
        return False
    counted = all(isinstance(about, dict) and _is_count(about) for about in classes.values())
    return counted and _is_uncertainty(record.get(UNCERTAINTY, {}))


def _is_count(about: Mapping[str, object]) -> bool:
    """Whether the record of a class has the number of its voxels."""
    voxels = about.get("voxels")
    return isinstance(voxels, int) and not isinstance(voxels, bool)


def _is_uncertainty(about: object) -> bool:
    """Whether a case's record of uncertainty has the shape in which it is written."""
    if not isinstance(about, dict):
        return False
    maps = about.get(MAPS, {})
    if FEATURES in about and not _is_file_name(about[FEATURES]):
        return False
    return isinstance(maps, dict) and all(_is_map(of_map) for of_map in maps.values())


def _is_map(about: object) -> bool:
    """Whether the record of an uncertainty map names its file and has its mean."""
    if not isinstance(about, dict) or FOREGROUND not in about:
        return False
    mean = about[FOREGROUND]
    return _is_file_name(about.get("file")) and isinstance(mean, (float, int, NoneType))


def _is_file_name(name: object) -> bool:
    """Whether a value is the name of a file without a folder."""
    return isinstance(name, str) and Path(name).name == name
