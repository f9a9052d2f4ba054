"""Read scans: NIfTI, NRRD and MetaImage files and DICOM series; every fault is one line."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from scans.dicom import read_dicom, read_grid, series_files
from scans.formats import files_of, is_dicom, read_voxel_file
from scans.geometry import Geometry
from scans.voxel_file import Warn, checked_length, read_voxels
from utils.errors import UserError

# ITK prints its own lines about headers; ours name a remedy
sitk.ProcessObject.SetGlobalWarningDisplay(False)

ROUNDING = 1e-3  # a label's value that is less far from a whole number is that number
SHOWN = 10  # values that a message lists


@dataclass(frozen=True, eq=False)
class Scan:
    """The voxels of a file or of a DICOM series, and where they lie.

    `array` has the axes of the file's indices (x, y, z for most), as in nibabel. `sha256` is the
    hash of the file, or of a series' files.
    """

    path: Path
    array: np.ndarray
    geometry: Geometry
    sha256: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return self.array.shape


def ignore_warning(line: str | None) -> None:
    """Do nothing: the default of `warn`."""


def read_scan(path: Path, warn: Warn = ignore_warning) -> Scan:
    """Read one 3-D scan: a file, or a folder that holds one DICOM series somewhere below it.

    A 2-D image gets a third axis of length 1. `warn` gets a line for each thing that is strange,
    but can be read. Raises UserError where there is no scan, where it cannot be read, has more than
    three axes or several values a voxel, a spacing that is not positive, missing slices, or NaN or
    infinite values.
    """
    if path.is_dir() or is_dicom(path):
        array, geometry = read_dicom(path)
    else:
        _check_there(path)
        file = read_voxel_file(path)
        for line in file.warnings:
            warn(line)
        array = read_voxels(file)
        geometry = file.geometry
    return Scan(path, array, geometry, sha256(path))


def read_header(path: Path) -> tuple[tuple[int, ...], Geometry]:
    """Read shape and geometry of a scan, but no voxel. Raises UserError as `read_scan` does."""
    if path.is_dir() or is_dicom(path):
        grid = read_grid(path)
        return grid.shape, grid.geometry
    _check_there(path)
    file = read_voxel_file(path)
    checked_length(file)
    return file.shape, file.geometry


def _check_there(path: Path) -> None:
    if path.is_symlink() and not path.exists():
        raise UserError(
            f"{path}: no such file, it is a link to nothing; restore the file that it points to"
        )
    if not path.exists():
        raise UserError(f"{path}: no such file; put it there, or correct the name")


def read_label(
    path: Path, values: tuple[int, ...], source: str, warn: Warn = ignore_warning
) -> Scan:
    """Read a label map as `read_scan` does; its array has the smallest unsigned type for `values`.

    Values that differ from a whole number by float rounding (less than 1e-3) are rounded. Raises
    UserError if the label holds other values than `values`, which are declared by `source`.
    """
    scan = read_scan(path, warn)
    array = rounded_label(scan.array)
    present = np.unique(array)
    strange = present[~np.isin(present, values)]
    if strange.size:
        raise UserError(
            f"{path}: the label holds {listed_values(strange)}, "
            f"expected {listed_values(values)} ({source}); correct or remove it"
        )
    return Scan(path, array.astype(np.min_scalar_type(max(values))), scan.geometry, scan.sha256)


def rounded_label(array: np.ndarray) -> np.ndarray:
    """Return the array with values rounded that are less than 1e-3 from a whole number."""
    if array.dtype.kind != "f":
        return array
    whole = np.rint(array)
    return np.where(np.abs(array - whole) < ROUNDING, whole, array)


def listed_values(values: Iterable[float]) -> str:
    """Return values as text for messages, each once, with up to four decimal places."""
    numbers = sorted(set(values))
    words = [np.format_float_positional(value, precision=4, trim="-") for value in numbers[:SHOWN]]
    text = ", ".join(dict.fromkeys(words))
    if len(numbers) <= SHOWN:
        return text
    if numbers == list(range(int(numbers[0]), int(numbers[-1]) + 1)):
        return f"{numbers[0]} to {numbers[-1]}"
    return f"{text} ..."


def sha256(path: Path) -> str:
    """Return the hash of a scan as hexadecimal digits.

    A file: of its content, and of the content of other files that hold its voxels. A folder: of the
    names and contents of its DICOM series' files, in the order of their names, whatever folders
    they lie in. Raises UserError where a file cannot be read, or the folder holds no series or
    several.
    """
    digest = hashlib.sha256()
    if path.is_dir():
        files = series_files(path)
    else:
        _check_there(path)
        files = list(files_of(path))
    try:
        for file in filter(Path.is_file, files):
            if path.is_dir():
                digest.update(file.name.encode(errors="surrogateescape"))
            with open(file, "rb") as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror or error}); check its permissions"
        ) from None
    return digest.hexdigest()
