"""What a NIfTI header says beside what is read from it, and places that no scanner gives."""

from pathlib import Path

import nibabel
import numpy as np

from preparation.geometry import Geometry
from utils.errors import UserError

APART = 0.5  # voxels between two places of one scan that are told


def look_at_header(path: Path) -> str | None:
    """A warning where a NIfTI file holds two places that differ; UserError where its axes span no volume. Other formats have one place."""
    if not path.name.endswith((".nii", ".nii.gz")):
        return None
    try:
        header = nibabel.load(path).header
        shape, pairs = (
            header.get_data_shape()[:3],
            [header.get_sform(coded=True), header.get_qform(coded=True)],
        )
    except Exception:  # whatever is wrong with a header, reading the scan says it
        return None
    affines = [affine for affine, code in pairs if code > 0 and affine is not None]
    for affine in affines:
        lengths = np.linalg.norm(affine[:3, :3], axis=0)
        if (
            not np.isfinite(affine).all()
            or abs(np.linalg.det(affine[:3, :3])) <= 1e-3 * lengths.prod()
        ):
            raise UserError(
                f"{path}: its affine is singular, the axes span no volume; export the scan again"
            )
    if len(affines) == 2:
        corners = np.array(
            [
                [x, y, z, 1]
                for x in (0, shape[0] - 1)
                for y in (0, shape[1] - 1)
                for z in (0, shape[-1] - 1)
            ]
        )
        apart = (
            np.linalg.norm((affines[0] - affines[1]) @ corners.T, axis=0).max()
            / np.linalg.norm(affines[0][:3, :3], axis=0).min()
        )
        if apart > APART:
            return f"{path}: qform and sform place it up to {apart:.1f} voxels apart, and readers choose differently; set one of them"
    return None


def nowhere(grid: Geometry) -> bool:
    """Whether a scan's place is what is written where nothing is known: voxels of 1 mm from the origin, no axis oblique."""
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
