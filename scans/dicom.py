"""Read DICOM: a series of slices, wherever its files lie below a folder, or one file."""

import filecmp
import itertools
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from scans.dicom_grid import Grid, arrange
from scans.dicom_pixels import read_values
from scans.dicom_tags import (
    DAMAGED,
    SLICE_ENDINGS,
    DicomFile,
    Slice,
    is_slice_name,
    name_ending,
    read_tags,
    slices_of,
)
from scans.geometry import Geometry
from utils.errors import UserError
from utils.files import files_below

LISTED = 5  # series that a message names


def read_dicom(path: Path) -> tuple[np.ndarray, Geometry]:
    """Return values (x, y, z) and geometry of a DICOM file, or of the one series below a folder.

    A file is a whole volume (enhanced multi-frame), or one slice. Files of a series belong together
    by SeriesInstanceUID, whatever their names and folders; other files, and DICOM objects without
    pixels, are ignored. Each slice is rescaled by its own slope and intercept. x runs along the
    rows, y along the columns, z along the slices' normal.

    Raises UserError, one line, where there is no series or several, where a file is damaged, and
    where the slices do not form one straight stack with even distances.
    """
    grid = read_grid(path)
    values = read_values(path, grid.slices)
    return values.T, grid.geometry


def read_grid(path: Path) -> Grid:
    """Return the slices of a file, or of the series below a folder, in order and on their grid.

    No pixel is read. Raises UserError as `read_dicom` does.
    """
    if not path.is_dir():
        return arrange(path, slices_of(_one_image(path)))
    slices: list[Slice] = []
    for file in _series(path):
        slices += slices_of(file)
    return arrange(path, slices)


def holds_volume(path: Path) -> bool:
    """Whether the file is a DICOM file with several images."""
    file = read_tags(path)
    return file is not None and file.is_image and file.frames > 1


def series_files(folder: Path) -> list[Path]:
    """Return the files that `read_dicom` reads, sorted by name; raises UserError as it does."""
    paths = [file.path for file in _series(folder)]
    return sorted(paths, key=lambda path: (path.name, path))


def series_folders(paths: Iterable[Path]) -> list[Path]:
    """Return the folders to give to `read_dicom`, for the DICOM files among `paths`.

    A folder is the deepest one that holds a whole series. Files in different folders that have the
    same SeriesInstanceUID are one series, unless two of them lie at one position: then the folders
    hold copies, or scans whose UIDs were removed. The folder of a damaged file is returned too, so
    that reading it reports the fault.
    """
    series: dict[str, list[DicomFile]] = {}
    folders: list[Path] = []
    for path in paths:
        try:
            file = read_tags(path)
        except UserError:
            folders.append(path.parent)
            continue
        if file is not None and file.is_image:
            series.setdefault(file.series, []).append(file)
        elif file is None and path.suffix.lower() in SLICE_ENDINGS:
            folders.append(path.parent)
    for uid, files in series.items():
        parents = [file.path.parent for file in files]
        if uid and _positions_differ(files):
            folders.append(Path(os.path.commonpath(parents)))
        else:
            folders += parents
    return sorted(set(folders))


def _positions_differ(files: Iterable[DicomFile]) -> bool:
    """Whether no two folders hold an image at the same position."""
    images = {(file.path.parent, str(file.tags.get("ImagePositionPatient"))) for file in files}
    counts = Counter(position for _, position in images)
    return max(counts.values()) == 1


def _one_image(path: Path) -> DicomFile:
    file = read_tags(path)
    if file is None:
        raise UserError(f"{path}: not a DICOM file; name a scan")
    if not file.is_image:
        raise UserError(f"{path}: a DICOM object without an image ({file.kind}); name a scan")
    return file


def _series(folder: Path) -> list[DicomFile]:
    """The files of the one series below the folder, without copies, sorted by path."""
    groups: dict[str, list[DicomFile]] = {}
    for file in _images(folder):
        groups.setdefault(file.series, []).append(file)
    groups = {uid: _without_copies(files) for uid, files in groups.items()}
    stacks = [files for files in groups.values() if _image_count(files) > 1]
    # single images next to a stack are scouts and screenshots
    candidates = stacks or list(groups.values())
    if len(candidates) == 1:
        return candidates[0]
    if not candidates:
        raise UserError(f"{folder}: no DICOM series below it, expected one; download it again")
    names = [f"{files[0].description} ({_image_count(files)} images)" for files in candidates]
    listed = "; ".join(names[:LISTED])
    if len(names) > LISTED:
        listed += "; ..."
    raise UserError(
        f"{folder}: {len(names)} DICOM series below it, expected one: {listed}. "
        "Put each in its own folder"
    )


def _image_count(files: Iterable[DicomFile]) -> int:
    return sum(file.frames for file in files)


def _images(folder: Path) -> list[DicomFile]:
    """The DICOM images below a folder; UserError for a file that may be a damaged slice."""
    images: list[DicomFile] = []
    others: list[Path] = []
    unreadable: list[Path] = []
    for path in files_below(folder):
        if _is_hidden(path, folder) or path.is_dir():
            continue
        if not path.is_file():
            unreadable.append(path)
            continue
        file = read_tags(path)
        if file is None:
            others.append(path)
        elif file.is_image:
            images.append(file)
    endings = {name_ending(file.path) for file in images}
    for path in unreadable:
        if name_ending(path) in endings.union(SLICE_ENDINGS):
            raise UserError(
                f"{path}: named like a slice, but a link to nothing or not a regular file; "
                "put the slice there, or remove it"
            )
    for path in others:
        if is_slice_name(path, endings):
            raise UserError(
                f"{path}: not a DICOM file, though named like one; it {DAMAGED}, or remove it"
            )
    return images


def _is_hidden(path: Path, folder: Path) -> bool:
    """Whether the file or a folder above it, below `folder`, has a name that starts with a dot.

    Such are .DS_Store, a Mac's ._ files, and files that are still being copied. A Mac keeps a
    folder's picture in a file named "Icon" with a line break.
    """
    parts = path.relative_to(folder).parts
    return path.name == "Icon\r" or any(part.startswith(".") for part in parts)


def _without_copies(files: Iterable[DicomFile]) -> list[DicomFile]:
    """One file of each group with the same bytes: folders merged by hand hold slices twice.

    Files with the same SOPInstanceUID but different bytes stay: some anonymisers give all slices
    the same UID.
    """
    kept: dict[tuple[str, int], list[DicomFile]] = {}
    for file in files:
        alike = kept.setdefault((file.instance, file.path.stat().st_size), [])
        if not any(filecmp.cmp(file.path, other.path, shallow=False) for other in alike):
            alike.append(file)
    return list(itertools.chain.from_iterable(kept.values()))
