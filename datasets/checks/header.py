"""What a NIfTI header says in addition to what is read from it, and places that no scanner gives."""

from pathlib import Path

import numpy as np
from nibabel.spatialimages import HeaderDataError

from scans.formats import nifti_header
from scans.geometry import Geometry
from scans.nifti_format import affines
from utils.errors import UserError

APART = 0.5  # voxels between two places of one scan that are reported


def look_at_header(path: Path) -> str | None:
    """A warning where a NIfTI file holds no place or two places that differ.

    Other formats have one place, and reading reports faults.
    """
    try:
        with np.errstate(invalid="ignore"):  # reading refuses what is not finite
            return _differing_places(path)
    except (UserError, HeaderDataError, ValueError):
        return None


def _differing_places(path: Path) -> str | None:
    header = nifti_header(path) if path.is_file() else None
    if header is None:
        return None
    places = affines(header)
    if not places:
        return f"{path}: qform_code and sform_code are 0, so its orientation is unknown; export the scan again with it"
    if len(places) < 2:
        return None
    last = np.ones(3)
    sizes = header.get_data_shape()[:3]
    last[: len(sizes)] = sizes
    corners = np.ones((8, 4))
    corners[:, :3] = np.indices((2, 2, 2)).reshape(3, 8).T * (last - 1)
    sform, qform = places["sform"], places["qform"]
    apart = np.linalg.norm((sform - qform)[:3] @ corners.T, axis=0).max()
    voxels = apart / np.linalg.norm(sform[:3, :3], axis=0).min()
    if not voxels > APART:
        return None
    return (
        f"{path}: qform and sform place it up to {voxels:.1f} voxels apart, and readers choose "
        "differently (here the sform is used); "
        "set one of them"
    )


def nowhere(grid: Geometry) -> bool:
    """Whether a scan's place is what is written where nothing is known: voxels of 1 mm from the
    origin, no axis oblique.
    """
    return nothing_known(grid.affine)


def nothing_known(affine: np.ndarray) -> bool:
    return np.allclose(np.abs(affine), np.eye(4), atol=1e-6)


def differences(label: Geometry, image: Geometry) -> str:
    """Which parts of two headers differ, in words."""
    parts = {
        "spacing": np.allclose(label.spacing, image.spacing, rtol=1e-3),
        "origin": np.linalg.norm(label.origin - image.origin) < APART * image.spacing.min(),
        "direction": np.allclose(label.direction, image.direction, atol=1e-2),
    }
    return " and ".join(name for name, same in parts.items() if not same)
