"""Read and check NIfTI-1 and NIfTI-2 headers, with the geometry that nibabel chooses.

A scan is a single file, or a pair of a header (.hdr) and its voxels (.img).
"""

from collections.abc import Collection
from pathlib import Path

import nibabel
import numpy as np
from nibabel.spatialimages import HeaderDataError

from scans.geometry import LPS_TO_RAS, Geometry, checked_geometry
from scans.nifti_writer import has_usable_qform
from scans.scan_files import VOXELS, file_stem
from scans.voxel_file import DAMAGED, GZIP_MAGIC, VoxelFile, data_file, one_volume
from utils.errors import UserError

HEADERS = {348: nibabel.Nifti1Header, 540: nibabel.Nifti2Header}
SINGLE_FILE = {348: b"n+1", 540: b"n+2"}
PAIR = {348: b"ni1", 540: b"ni2"}
TYPES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8",
    256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8",
}  # fmt: skip
COLOURS = {128: 3, 2304: 4}  # values per voxel
COMPLEX = (32, 1792, 2048)
MILLIMETRES = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # by xyzt_units
UNITS = {1: "metres", 3: "micrometres"}
# pixdim and the length of an affine's column differ by less if they are one float32
ROUNDED = 1e-5


def is_nifti(start: bytes) -> bool:
    """Whether a file whose decompressed content starts like this has a NIfTI or Analyze header."""
    return len(start) >= 4 and _byte_order(start) is not None


def _byte_order(start: bytes) -> tuple[int, str] | None:
    """Length of the header and byte order by the first number, which is that length."""
    for order in "<>":
        length = int(np.frombuffer(start[:4], f"{order}i4")[0])
        if length in HEADERS:
            return length, order
    return None


def read_nifti_header(path: Path, start: bytes) -> VoxelFile:
    """Read and check the header of `path`, whose decompressed content begins with `start`.

    Raises UserError where it is damaged or of another kind of image.
    """
    header = checked_header(path, start)
    length = header.sizeof_hdr
    rank = int(header["dim"][0])
    if not 1 <= rank <= 7:
        raise UserError(
            f"{path}: the header gives {rank} axes, it is damaged; copy or download it again"
        )
    sizes = [int(side) for side in header["dim"][1 : rank + 1]]
    code = int(header["datatype"])
    values = COLOURS.get(code, 1)
    if rank == 5 and sizes[3] == 1 and sizes[4] > 1:  # several values per voxel, as ITK writes them
        values = sizes.pop()
    shape = one_volume(path, sizes, values=values)
    if code in COMPLEX:
        raise UserError(f"{path}: its voxels are complex numbers; save the magnitude")
    if code not in TYPES:
        raise UserError(f"{path}: data type {code} is not supported; convert it to float32")
    dtype = np.dtype(TYPES[code]).newbyteorder(header.endianness)
    if int(header["bitpix"]) not in (0, 8 * dtype.itemsize):
        raise UserError(
            f"{path}: the header gives {int(header['bitpix'])} bits per voxel for a type of "
            f"{8 * dtype.itemsize}, it is damaged; copy or download it again"
        )
    warnings: list[str] = []
    geometry = _geometry(path, header, warnings)
    is_single = header["magic"].item() == SINGLE_FILE[length]
    data = path
    if not is_single:
        data = paired_file(path)
    slope, intercept = _scaling(path, header)
    encoding = "raw"
    if _starts_with(data, GZIP_MAGIC):
        encoding = "gzip"
    return VoxelFile(
        path=path,
        shape=shape,
        geometry=geometry,
        dtype=dtype,
        data=(data,),
        encoding=encoding,
        skip=_offset(path, header, is_single=is_single),
        slope=slope,
        intercept=intercept,
        warnings=tuple(warnings),
    )


def checked_header(path: Path, start: bytes) -> nibabel.Nifti1Header:
    """Return the header that `start` begins with; UserError where it is damaged or Analyze.

    Its class is that of a single file also for a pair; only the magic string differs.
    """
    order = _byte_order(start)
    assert order is not None
    length, letter = order
    if len(start) < length:
        raise UserError(f"{path}: {DAMAGED}")
    header = HEADERS[length](binaryblock=start[:length], endianness=letter, check=False)
    if header["magic"].item() not in (SINGLE_FILE[length], PAIR[length]):
        raise UserError(
            f"{path}: an Analyze file, whose orientation is unknown, or a damaged NIfTI header; "
            "convert it to NIfTI, or copy it again"
        )
    if header["pixdim"][0] not in (-1, 1):  # nibabel's and the standard's default
        header["pixdim"][0] = 1
    return header


def paired_file(path: Path) -> Path:
    """Return the .img of a .hdr; UserError where there is none."""
    stem = path.stem
    if ".hdr" in path.name.lower():
        stem = path.name[: path.name.lower().rindex(".hdr")]
    voxels = _sibling(path, stem, endings=VOXELS)
    if voxels is None:
        raise UserError(
            f"{path}: its voxels lie in {stem}.img, which is missing; put it next to the header"
        )
    return data_file(path, voxels.name)


def paired_header(path: Path) -> Path | None:
    """Return the .hdr of an .img; None where there is none."""
    if not path.name.lower().endswith(VOXELS):
        return None
    return _sibling(path, file_stem(path, VOXELS), endings=(".hdr", ".hdr.gz"))


def _sibling(path: Path, stem: str, endings: Collection[str]) -> Path | None:
    """The file next to `path` with this stem and one of the endings, in any case."""
    for sibling in sorted(path.parent.iterdir()):
        ending = sibling.name.removeprefix(stem)
        if sibling.name.startswith(stem) and ending.lower() in endings:
            return sibling
    return None


def _starts_with(path: Path, magic: bytes) -> bool:
    with open(path, "rb") as stream:
        return stream.read(len(magic)) == magic


def _offset(path: Path, header: nibabel.Nifti1Header, is_single: bool) -> int:
    """The byte at which the voxels begin."""
    offset = float(header["vox_offset"])
    least = 0
    if is_single:
        least = header.sizeof_hdr + 4
    if offset == 0:
        return least
    if not offset.is_integer() or offset < least:
        raise UserError(
            f"{path}: the header gives byte {offset:g} as the start of the voxels, it is damaged; "
            "copy or download it again"
        )
    return int(offset)


def _scaling(path: Path, header: nibabel.Nifti1Header) -> tuple[float, float]:
    """Slope and intercept; a slope of 0, or none at all, means that values are not scaled."""
    slope = float(header["scl_slope"])
    intercept = float(header["scl_inter"])
    if slope == 0 or not np.isfinite(slope):
        return 1.0, 0.0
    if not np.isfinite(intercept):
        raise UserError(
            f"{path}: scl_slope is {slope:g}, but scl_inter is {intercept:g}; export the scan again"
        )
    return slope, intercept


def affines(header: nibabel.Nifti1Header) -> dict[str, np.ndarray]:
    """Return the affines (4, 4) that the header's codes declare, by name, the one in use first."""
    declared: dict[str, np.ndarray] = {}
    if int(header["sform_code"]) > 0:
        declared["sform"] = np.asarray(header.get_sform())
    if int(header["qform_code"]) > 0:
        declared["qform"] = np.asarray(header.get_qform())
    return declared


def _geometry(path: Path, header: nibabel.Nifti1Header, warnings: list[str]) -> Geometry:
    """The grid by the sform, else by the qform, else by the voxel sizes only, as in nibabel."""
    sizes = _voxel_sizes(header)
    has_sform = int(header["sform_code"]) > 0
    is_flat = int(header["dim"][0]) == 2
    # the sform needs no pixdim, but NaN and infinity show that the header is damaged
    is_usable = np.isfinite(sizes).all() and (has_sform or (sizes > 0).all())
    if not is_usable:
        raise UserError(
            f"{path}: the header's spacing is {_millimetre_text(sizes)} mm, "
            "it must be finite and positive; export the scan again"
        )
    if is_flat:
        header["pixdim"][3] = sizes[2]
    try:
        affine = np.asarray(header.get_best_affine())
    except (HeaderDataError, ValueError):
        raise UserError(
            f"{path}: the header is damaged, its qform is not a rotation; export the scan again"
        ) from None
    if has_sform and not has_usable_qform(header):
        warnings.append(f"{path}: the header's qform is not a rotation; the sform is used")
    if is_flat and not affine[:3, 2].any():
        affine[:3, 2] = _normal(affine) * sizes[2]
    factor = _millimetres(path, header, warnings)
    in_lps = np.diag(LPS_TO_RAS)[:, None] * affine[:3] * factor
    geometry = checked_geometry(path, in_lps[:, :3], in_lps[:, 3], warnings)
    sizes = sizes * factor
    if np.allclose(geometry.spacing, sizes, rtol=ROUNDED, atol=0):
        return Geometry(sizes, geometry.origin, geometry.direction)
    if not np.allclose(geometry.spacing, sizes, rtol=1e-3, atol=0):
        warnings.append(
            f"{path}: pixdim gives voxels of {_millimetre_text(sizes)} mm, "
            f"the sform {_millimetre_text(geometry.spacing)} mm; the sform is used"
        )
    return geometry


def _millimetre_text(sizes: np.ndarray) -> str:
    return " x ".join(f"{mm:g}" for mm in sizes)


def _normal(affine: np.ndarray) -> np.ndarray:
    """The unit vector at right angles to the first two axes; zeros where these are parallel."""
    vector = np.cross(affine[:3, 0], affine[:3, 1])
    return vector / max(np.linalg.norm(vector), np.finfo(float).tiny)


def _voxel_sizes(header: nibabel.Nifti1Header) -> np.ndarray:
    """pixdim of three axes (3,); a 2-D image without thickness is 1 thick."""
    sizes = header["pixdim"][1:4].astype(np.float64)
    if header["dim"][0] == 2 and not (np.isfinite(sizes[2]) and sizes[2] > 0):
        sizes[2] = 1
    return sizes


def _millimetres(path: Path, header: nibabel.Nifti1Header, warnings: list[str]) -> float:
    unit = int(header["xyzt_units"]) & 7
    if unit not in MILLIMETRES:
        raise UserError(
            f"{path}: xyzt_units {unit} is not a unit of length in NIfTI; export the scan again"
        )
    if unit in UNITS:
        warnings.append(f"{path}: its header is in {UNITS[unit]}, converted to millimetres")
    return MILLIMETRES[unit]
