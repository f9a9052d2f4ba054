"""Detect the format of a scan by its content, not its name: NIfTI, NRRD, MetaImage or DICOM."""

import zlib
from pathlib import Path

import nibabel

from scans.dicom_tags import read_tags
from scans.meta_format import is_meta, read_meta_header
from scans.nifti_format import checked_header, is_nifti, paired_header, read_nifti_header
from scans.nrrd_format import is_nrrd, read_nrrd_header
from scans.voxel_file import DAMAGED, GZIP_MAGIC, VoxelFile, regular_size
from utils.errors import UserError

START = 1 << 16  # bytes that are enough to detect a format


def is_dicom(path: Path) -> bool:
    """Whether the file is DICOM by its content, with or without the preamble of newer files."""
    if not path.is_file():
        return False
    if _first_bytes(path, 132)[128:] == b"DICM":
        return True
    return read_tags(path) is not None


def read_voxel_file(path: Path) -> VoxelFile:
    """Read and check the header of a NIfTI, NRRD or MetaImage file.

    Raises UserError for any other file, and for a damaged one.
    """
    path = paired_header(path) or path
    regular_size(path)
    start = _decompressed_start(path)
    if is_nifti(start):
        return read_nifti_header(path, start)
    if _first_bytes(path, 2) == GZIP_MAGIC:
        if len(start) < 348:  # the shortest header of NIfTI
            raise UserError(f"{path}: {DAMAGED}")
        raise UserError(f"{path}: compressed, but not a NIfTI file; unpack it with gunzip")
    if is_nrrd(start):
        return read_nrrd_header(path)
    if is_meta(start):
        return read_meta_header(path)
    raise UserError(
        f"{path}: not a scan in NIfTI, NRRD, MetaImage or DICOM format, or a damaged one; "
        "convert it, or copy it again"
    )


def nifti_header(path: Path) -> nibabel.Nifti1Header | None:
    """Return nibabel's header of a NIfTI file, None for any other file.

    Raises UserError where the header is damaged.
    """
    path = paired_header(path) or path
    regular_size(path)
    start = _decompressed_start(path)
    if not is_nifti(start):
        return None
    return checked_header(path, start)


def files_of(path: Path) -> tuple[Path, ...]:
    """Return the file, and those in which its voxels lie according to its header.

    Raises UserError for damage, and for anything but a regular file: reading a pipe or a device
    might never end.
    """
    path = paired_header(path) or path
    regular_size(path)
    start = _decompressed_start(path)
    if is_nifti(start) or is_nrrd(start) or is_meta(start):
        return read_voxel_file(path).files
    return (path,)


def _decompressed_start(path: Path) -> bytes:
    start = _first_bytes(path, START)
    if not start.startswith(GZIP_MAGIC):
        return start
    try:
        return zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(start, 1024)
    except zlib.error:
        raise UserError(f"{path}: {DAMAGED}") from None


def _first_bytes(path: Path, count: int) -> bytes:
    try:
        with open(path, "rb") as stream:
            return stream.read(count)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); check its permissions"
        ) from None
