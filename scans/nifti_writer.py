"""Write volumes as NIfTI files, for any viewer."""

import os
from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.spatialimages import HeaderDataError

from utils.files import replacing

INTEGERS = (np.uint8, np.int16, np.int32)


def write_nifti(
    path: str | os.PathLike,
    volume: np.ndarray,
    spacing_mm: Sequence[float] | None = None,
    affine: np.ndarray | None = None,
) -> None:
    """Write a volume (Z, Y, X), slices first, to a .nii.gz file with axes x, y, z.

    The folder must exist. `affine` (4, 4) maps voxel indices x, y, z to millimetres. Without it the
    file gets a diagonal affine made of `spacing_mm` in the volume's axis order z, y, x (1 mm if
    None), which does not describe the patient's orientation. Masks and integers are stored in the
    smallest of uint8, int16 and int32 that holds their values, floats as float32. An existing file
    of that name is replaced when the new one is complete; after a failure it is unchanged. Raises
    ValueError for a wrong shape, ending, dtype, spacing or affine, or when both spacing and affine
    are given.
    """
    path = Path(path)
    volume = np.asarray(volume)
    if not path.name.endswith(".nii.gz"):
        raise ValueError(f"{path}: the name must end in .nii.gz")
    if volume.ndim != 3 or volume.size == 0:
        raise ValueError(
            f"{path}: a volume has three axes and at least one voxel, not shape {volume.shape}"
        )
    image = nibabel.Nifti1Image(_storable(volume).T, _checked_affine(spacing_mm, affine))
    image.header.set_xyzt_units("mm")
    with replacing(path) as unfinished:
        image.to_filename(unfinished)


def write_nifti_like(path: Path, labels: np.ndarray, source: nibabel.Nifti1Header) -> None:
    """Write a label map (unsigned integers) or a map of float32 to a .nii.gz file with the geometry
    of `source`.

    The file gets the shape, affine, qform, sform and codes of that header. The axes are those of
    the source's indices. Header fields about intensities and all extensions are removed. As in
    `write_nifti`, no incomplete file is left behind.
    """
    header = source.copy()
    header.set_data_dtype(labels.dtype)
    header.set_slope_inter(1, 0)
    header["cal_min"] = 0
    header["cal_max"] = 0
    header.extensions.clear()
    kind = nibabel.Nifti1Image
    if isinstance(header, nibabel.Nifti2Header):
        kind = nibabel.Nifti2Image
    affine = header.get_best_affine()
    sizes = voxel_sizes(affine)
    header_sizes = np.asarray(header["pixdim"][1:4], np.float64)
    if not (header_sizes > 0).all() and (sizes > 0).all():
        header["pixdim"][1:4] = sizes  # some readers use them instead of the affine
    if not has_usable_qform(header):
        # the affine is the sform; other readers would fail on the qform
        header["qform_code"] = 0
        for field in ("quatern_b", "quatern_c", "quatern_d"):
            header[field] = 0
    shaped = labels.reshape(header.get_data_shape(), order="F")
    written = kind(shaped, affine, header)
    with replacing(path) as unfinished:
        written.to_filename(unfinished)


def has_usable_qform(header: nibabel.Nifti1Header) -> bool:
    """Whether a header's quaternion is a rotation and its voxel sizes are valid.

    True if it declares no qform.
    """
    if int(header["qform_code"]) <= 0:
        return True
    try:
        header.get_qform()
    except (HeaderDataError, ValueError):
        return False
    return True


def _storable(volume: np.ndarray) -> np.ndarray:
    if volume.dtype.kind == "f":
        return volume.astype(np.float32)
    if volume.dtype.kind in "biu":
        low = int(volume.min())
        high = int(volume.max())
        for dtype in INTEGERS:
            if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
                return volume.astype(dtype)
    raise ValueError(f"no NIfTI type for a volume of {volume.dtype} with these values")


def _checked_affine(spacing_mm: Sequence[float] | None, affine: np.ndarray | None) -> np.ndarray:
    if affine is None:
        if spacing_mm is None:
            return np.eye(4)
        spacing = np.asarray(spacing_mm, dtype=np.float64)
        if spacing.shape != (3,) or not np.all(np.isfinite(spacing) & (spacing > 0)):
            raise ValueError(f"spacing must be three positive numbers z, y, x, not {spacing_mm}")
        return np.diag([*spacing[::-1], 1.0])
    if spacing_mm is not None:
        raise ValueError("give a spacing or an affine, not both: the affine holds the spacing")
    affine = np.asarray(affine, dtype=np.float64)
    if affine.shape != (4, 4):
        raise ValueError(f"an affine has shape (4, 4), not {affine.shape}")
    return affine
