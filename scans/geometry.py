"""Where the voxels of a scan lie, and how a label is laid onto its image."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import ArrayLike

from utils.errors import UserError

# ITK's world has x to the patient's left and y to the back, NIfTI's the other way round
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])
SAME_GRID = 0.5  # voxels; corners that are less apart belong to one grid
# cosines between axes: up to the first they are rounding, up to the second they are straightened with a warning
ROUNDED = 1e-4
SLANTED = 1e-3


@dataclass(frozen=True, eq=False)
class Geometry:
    """`spacing` (3,) in mm, `origin` (3,): the centre of voxel 0, `direction` (3, 3): a column an array axis; ITK's world (LPS)."""

    spacing: np.ndarray
    origin: np.ndarray
    direction: np.ndarray

    @property
    def affine(self) -> np.ndarray:
        """(4, 4), from array indices to millimetres in NIfTI's world (RAS)."""
        affine = np.eye(4)
        affine[:3, :3] = LPS_TO_RAS @ (self.direction * self.spacing)
        affine[:3, 3] = LPS_TO_RAS @ self.origin
        return affine

    def at(self, index: ArrayLike) -> np.ndarray:
        """The place (mm) of an array index, whole or not."""
        return self.origin + (self.direction * self.spacing) @ np.asarray(index, float)

    def cropped(self, start: Sequence[int]) -> "Geometry":
        """Of the part of the array that begins at `start`."""
        return replace(self, origin=self.at(start))

    def stepped(self, step: Sequence[float], first: Sequence[float] = (0, 0, 0)) -> "Geometry":
        """Of an array whose voxel i lies at index `first` + i * `step` of this one."""
        return replace(self, spacing=self.spacing * np.asarray(step, float), origin=self.at(first))

    def turned(
        self, axes: Sequence[int], flipped: Sequence[bool], shape: Sequence[int]
    ) -> "Geometry":
        """Of the array (of `shape`) after `turn` with the same arguments."""
        axes = list(axes)
        corner = np.zeros(3)
        for axis, flip in zip(axes, flipped, strict=True):
            corner[axis] = (shape[axis] - 1) * flip
        signs = np.where(flipped, -1.0, 1.0)
        return Geometry(self.spacing[axes], self.at(corner), self.direction[:, axes] * signs)


def checked_geometry(
    path: Path, columns: np.ndarray, origin: ArrayLike, warnings: list[str]
) -> Geometry:
    """The geometry of a header: `columns` (3, 3) are the steps in mm along each array axis, `origin` (3,) is the place of voxel 0.

    Axes that miss the right angle by rounding are made orthogonal; from 1e-4 on a line is added to `warnings`.
    Raises UserError where spacing or origin is not finite, the spacing not positive, the matrix singular or the axes slanted.
    """
    columns = np.asarray(columns, float)
    origin = np.asarray(origin, float)
    spacing = np.linalg.norm(columns, axis=0)
    if not np.isfinite(spacing).all() or not (spacing > 0).all():
        shown = " x ".join(f"{mm:g}" for mm in spacing)
        raise UserError(
            f"{path}: the header's spacing is {shown} mm, it must be finite and positive; export the scan again"
        )
    if not np.isfinite(origin).all():
        raise UserError(f"{path}: the header's origin is not finite; export the scan again")
    direction = columns / spacing
    if abs(np.linalg.det(direction)) < 1e-3:
        raise UserError(
            f"{path}: its affine is singular, the axes span no volume; export the scan again"
        )
    slant = float(np.abs(direction.T @ direction - np.eye(3)).max())
    if slant > SLANTED:
        raise UserError(
            f"{path}: the header's axes are not at right angles; resample the scan to a straight grid first"
        )
    if slant > ROUNDED:
        warnings.append(
            f"{path}: the header's axes miss the right angle by a cosine of {slant:.2g}; they are taken as orthogonal"
        )
    if slant > 1e-12:
        direction = nearest_orthogonal(direction)
    return Geometry(spacing, origin, direction)


def nearest_orthogonal(direction: np.ndarray) -> np.ndarray:
    """The orthogonal (3, 3) matrix with the smallest distance to `direction`."""
    left, _, right = np.linalg.svd(direction)
    return left @ right


def turn(array: np.ndarray, axes: Sequence[int], flipped: Sequence[bool]) -> np.ndarray:
    """The array with its axes in the order `axes`, those `flipped` (of the new order) run backwards; a view."""
    return array.transpose(tuple(axes))[
        tuple(slice(None, None, -1 if flip else 1) for flip in flipped)
    ]


def to_canonical(geometry: Geometry) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """`turn`'s arguments that make the array's axes run right, front, head (RAS), as closely as turning by right angles can."""
    return canonical(geometry.affine)


def canonical(affine: np.ndarray) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """As `to_canonical`, of an array whose indices `affine` (4, 4) takes to millimetres in NIfTI's world (RAS)."""
    found = nibabel.io_orientation(affine)
    axes = tuple(int(np.flatnonzero(found[:, 0] == world)[0]) for world in range(3))
    return axes, tuple(bool(found[axis, 1] < 0) for axis in axes)


def lay_onto(
    name: str, label: np.ndarray, where: Geometry, shape: tuple[int, ...], target: Geometry
) -> tuple[np.ndarray, str | None]:
    """The label on the grid of its image (`shape`, `target`), and a warning where their headers disagree.

    Where the headers say that both show the same voxels in another order (a series read L, P, S, its label stored L, A, S), the
    label is turned. Where they say anything else the arrays are taken as they are, as every published preparation does, with a
    warning. Raises UserError where the shapes differ.
    """
    turned = turned_onto(label, where, shape, target)
    if turned is not None:
        return turned, None
    if label.shape != shape:
        raise UserError(
            f"{name}: the label has {size(label.shape)} voxels, its image {size(shape)}; put its own label there"
        )
    apart = voxels_apart(where, target, shape)
    if apart < SAME_GRID:
        return label, None
    return (
        label,
        f"{name}: by the headers label and image lie up to {apart:.1f} voxels apart; taken voxel by voxel, look at them together",
    )


def turned_onto(
    array: np.ndarray, where: Geometry, shape: tuple[int, ...], target: Geometry
) -> np.ndarray | None:
    """The array on the grid `shape`, `target`, where the headers say that both are the same voxels in another order, else None."""
    relative = np.linalg.inv(target.direction) @ where.direction
    axes = [int(np.abs(row).argmax()) for row in relative]
    flipped = [bool(relative[i, axis] < 0) for i, axis in enumerate(axes)]
    if sorted(axes) != [0, 1, 2] or (axes == [0, 1, 2] and not any(flipped)):
        return None
    turned, there = turn(array, axes, flipped), where.turned(axes, flipped, array.shape)
    return (
        turned if turned.shape == shape and voxels_apart(there, target, shape) < SAME_GRID else None
    )


def voxels_apart(first: Geometry, second: Geometry, shape: Sequence[int]) -> float:
    """The largest distance between the corners of two grids of one shape, in voxels of the second."""
    corners = [
        np.array([x, y, z]) * (np.array(shape) - 1) for x in (0, 1) for y in (0, 1) for z in (0, 1)
    ]
    return float(
        max(
            np.linalg.norm(
                (first.at(corner) - second.at(corner)) @ second.direction / second.spacing
            )
            for corner in corners
        )
    )


def size(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
