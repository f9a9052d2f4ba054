"""Warnings about the positions that a header records."""

from pathlib import Path

import numpy as np
from nibabel.spatialimages import HeaderDataError

from scans.formats import nifti_header
from scans.geometry import Geometry
from scans.nifti_format import affines
from utils.errors import UserError

APART = 0.5
"""Voxels between two positions of one scan that are reported."""


def header_warning(path: Path) -> str | None:
    """A warning where a NIfTI file has no affine, or two affines that differ.

    Other formats have one, and reading reports its faults.
    """
    try:
        with np.errstate(invalid="ignore"):  # reading refuses what is not finite
            return _affine_warning(path)
    except (UserError, HeaderDataError, ValueError):
        return None


def _affine_warning(path: Path) -> str | None:
    if not path.is_file():
        return None
    header = nifti_header(path)
    if header is None:
        return None
    recorded = affines(header)
    if not recorded:
        return (
            f"{path}: qform_code and sform_code are 0, so its orientation is unknown; "
            "export the scan again with it"
        )
    if len(recorded) < 2:
        return None
    sform = recorded["sform"]
    last = np.ones(3)
    sizes = header.get_data_shape()[:3]
    last[: len(sizes)] = sizes
    corners = np.ones((8, 4))
    corners[:, :3] = np.indices((2, 2, 2)).reshape(3, 8).T * (last - 1)
    apart = np.linalg.norm((sform - recorded["qform"])[:3] @ corners.T, axis=0).max()
    voxels = apart / np.linalg.norm(sform[:3, :3], axis=0).min()
    if not voxels > APART:
        return None
    return (
        f"{path}: qform and sform place it up to {voxels:.1f} voxels apart, and readers choose "
        "differently (here the sform is used); set one of them"
    )


def is_unknown(affine: np.ndarray) -> bool:
    """Whether an affine is what programs write if they know none: 1 mm voxels, no axis oblique."""
    return np.allclose(np.abs(affine), np.eye(4), atol=1e-6)


def differences(label: Geometry, image: Geometry) -> str:
    """Which parts of two headers differ, in words."""
    distance = np.linalg.norm(label.origin - image.origin)
    is_same = {
        "spacing": np.allclose(label.spacing, image.spacing, rtol=1e-3),
        "origin": distance < APART * image.spacing.min(),
        "direction": np.allclose(label.direction, image.direction, atol=1e-2),
    }
    return " and ".join(name for name, same in is_same.items() if not same)
