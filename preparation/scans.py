"""Reading scans: NIfTI, NRRD and MHA files and DICOM series, by SimpleITK, with every fault named in one line."""

import gzip
import hashlib
import math
import zlib
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK as sitk

from preparation.dicom import read_series, series_files
from preparation.geometry import Geometry
from utils.errors import UserError

sitk.ProcessObject.SetGlobalWarningDisplay(
    False
)  # ITK prints lines of its own about headers; ours say what to do

NOT_FINITE = "holds NaN or infinite values; replace them, or export the scan again"


@dataclass(frozen=True, eq=False)
class Scan:
    """`array` in the order of the file's indices (x, y, z for most), with nibabel's axes; `sha256` of the file, or of a series' files."""

    path: Path
    array: np.ndarray
    geometry: Geometry
    sha256: str

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape


def read_scan(path: Path) -> Scan:
    """One 3-D scan: a file, or a folder that holds one DICOM series somewhere below it.

    Raises UserError where there is none, it cannot be read, has other than three axes or several values a voxel, a spacing that is
    not positive, slices that are missing, or NaN or infinite values.
    """
    image = read_series(path) if path.is_dir() else _read_file(path)
    image = _one_volume(path, image)
    array = sitk.GetArrayFromImage(image).T
    if array.dtype.kind not in "iuf":
        raise UserError(f"{path}: voxels of type {array.dtype}, numbers are expected; convert it")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise UserError(f"{path}: {NOT_FINITE}")
    geometry = Geometry(
        *(np.array(part) for part in (image.GetSpacing(), image.GetOrigin())),
        np.array(image.GetDirection()).reshape(3, 3),
    )
    if not (
        np.isfinite(geometry.spacing).all()
        and (geometry.spacing > 0).all()
        and abs(np.linalg.det(geometry.direction)) > 0.5
    ):
        raise UserError(
            f"{path}: the header has no usable spacing or direction (spacing {geometry.spacing}); export the scan again"
        )
    return Scan(path, array, geometry, sha256(path))


def read_label(path: Path, values: tuple[int, ...], what: str) -> Scan:
    """As `read_scan`, the array whole numbers; UserError unless it holds nothing but `values` (`what` describes them)."""
    scan = read_scan(path)
    found = np.unique(scan.array)
    strange = found[~np.isin(found, values)]
    if strange.size:
        shown = ", ".join(f"{value:g}" for value in strange[:5])
        raise UserError(
            f"{path}: the label holds {shown}{' ...' if strange.size > 5 else ''}, expected {what}; mend it or take it away"
        )
    return Scan(
        path, scan.array.astype(np.min_scalar_type(max(values))), scan.geometry, scan.sha256
    )


def sha256(path: Path) -> str:
    """Of a file; of a folder: of the names and contents of its DICOM series' files, in order of their names, whatever folders they lie in.

    Raises UserError where a file cannot be read, or the folder holds no series or several."""
    digest = hashlib.sha256()
    files = series_files(path) if path.is_dir() else [path]
    try:
        for file in (file for file in files if file.is_file()):
            if path.is_dir():
                digest.update(file.name.encode())
            with open(file, "rb") as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror or error}); look at its permissions"
        ) from None
    return digest.hexdigest()


def _read_file(path: Path) -> sitk.Image:
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    _check_whole(path)
    try:
        return sitk.ReadImage(str(path))
    except RuntimeError as error:
        if "orthonormal" in str(error):
            raise UserError(
                f"{path}: the header's axes are not at right angles; resample the scan to a straight grid first"
            ) from None
        if "Unable to determine ImageIO" in str(error):
            raise UserError(
                f"{path}: no scan in a format that SimpleITK reads (NIfTI, NRRD, MHA ...), or a damaged one"
            ) from None
        raise UserError(
            f"{path}: cannot be read, it is damaged or incomplete{_reason(error)}; copy or download it again"
        ) from None


def _check_whole(path: Path) -> None:
    """UserError for a NIfTI file that ends too early or holds NaN or infinite values: ITK reads both without complaint, and leaves chance
    values in the rest of the one, zeros in the other."""
    if not path.name.endswith((".nii", ".nii.gz")):
        return
    try:
        header = nibabel.load(path).header
        offset, dtype = int(header.get_data_offset()), header.get_data_dtype()
        expected = offset + math.prod(header.get_data_shape()) * dtype.itemsize
    except Exception:  # whatever is wrong with a header, ITK says it; but not that the file ends
        offset, dtype, expected = 0, np.dtype(np.uint8), 0
    there, finite = path.stat().st_size, True
    if path.suffix == ".gz" or dtype.kind == "f":
        there = 0
        try:
            with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as stream:
                there = len(stream.read(offset))
                while block := stream.read(1 << 20):  # to the end, where gzip's checksum is
                    there += len(block)
                    if dtype.kind == "f":
                        finite &= bool(
                            np.isfinite(
                                np.frombuffer(
                                    block[: len(block) // dtype.itemsize * dtype.itemsize], dtype
                                )
                            ).all()
                        )
        except (EOFError, OSError, zlib.error) as error:
            if not expected and isinstance(error, gzip.BadGzipFile):
                return  # not compressed, and no NIfTI file either
            raise UserError(
                f"{path}: cannot be read, it is damaged or incomplete; copy or download it again"
            ) from None
    if there < expected:
        raise UserError(
            f"{path}: ends after {there} of {expected} bytes, it is incomplete; copy or download it again"
        )
    if not finite:
        raise UserError(f"{path}: {NOT_FINITE}")


def _one_volume(path: Path, image: sitk.Image) -> sitk.Image:
    """The image without a fourth axis of length 1; UserError unless that is one 3-D volume of one value a voxel."""
    if image.GetDimension() == 4 and image.GetSize()[3] == 1:
        image = sitk.Extract(image, (*image.GetSize()[:3], 0), (0, 0, 0, 0))
    if image.GetDimension() != 3:
        size = " x ".join(map(str, image.GetSize()))
        raise UserError(
            f"{path}: has {image.GetDimension()} axes ({size}), one 3-D volume is expected; save volumes one by one"
        )
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise UserError(
            f"{path}: has {image.GetNumberOfComponentsPerPixel()} values a voxel, one is expected; save a grey-level image"
        )
    return image


def _reason(error: Exception) -> str:
    """What ITK says at the end of its several lines, in brackets, without the place in its sources; nothing where that says nothing."""
    text = str(error).strip().splitlines()[-1].split("): ")[-1].strip().rstrip(".")
    return "" if text.startswith("Reason:") else f" ({text})"
