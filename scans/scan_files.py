"""File names of scans: their endings, and the case that a file belongs to."""

import re
from collections.abc import Collection
from pathlib import Path

from utils.errors import UserError
from utils.files import files_below

SCANS = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd", ".hdr", ".hdr.gz")
VOXELS = (".img", ".img.gz")  # of a .hdr next to it
UNCERTAINTY_MAP = re.compile(r".+_uncertainty_(entropy|mirror|dropout|ensemble)")  # of predict.py


def is_broken_scan(path: Path, endings: Collection[str]) -> bool:
    """Return whether the path is named like a scan, but is a broken link, a pipe or a device."""
    return not path.is_file() and not path.is_dir() and bool(file_stem(path, endings))


def file_stem(path: Path, endings: Collection[str]) -> str:
    """Return the file's name without its ending, which may be in capitals.

    An empty string if it has none of these endings.
    """
    for ending in endings:
        if path.name.lower().endswith(ending):
            return path.name[: -len(ending)]
    return ""


def by_case(folder: Path) -> dict[str, Path]:
    """Return the scans below a folder by the name of their case.

    The name is the path below the folder, without ending and `_pred`. Uncertainty maps are omitted.
    Raises UserError if two files are of the same case.
    """
    scans: dict[str, Path] = {}
    for path in files_below(folder):
        stem = file_stem(path, SCANS)
        is_scan = stem and not UNCERTAINTY_MAP.fullmatch(stem)
        if not path.is_dir() and is_scan and not path.name.startswith("."):
            name = (path.parent.relative_to(folder) / stem.removesuffix("_pred")).as_posix()
            # a name that is not UTF-8 must not end the writing of the results
            name = name.encode(errors="surrogateescape").decode(errors="backslashreplace")
            other = scans.setdefault(name, path)
            if other is not path:
                raise UserError(f"{path}: is of the same case as {other}; remove one of them")
    return scans
