"""Where the voxels of a scan lie, and how a label is brought onto the grid of its image."""

import itertools
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
# Cosines between axes. Up to ROUNDED they are rounding; up to SLANTED the axes are straightened
# with a warning; above, the scan is refused.
ROUNDED = 1e-4
SLANTED = 1e-3


@dataclass(frozen=True, eq=False)
class Geometry:
    """The grid of a scan in ITK's world (LPS), in mm.

    `spacing` (3,), `origin` (3,): the centre of voxel 0, `direction` (3, 3): a column per array
    axis.
    """

    spacing: np.ndarray
    origin: np.ndarray
    direction: np.ndarray

    @property
    def affine(self) -> np.ndarray:
        """Matrix (4, 4) from array indices to millimetres in NIfTI's world (RAS)."""
        affine = np.eye(4)
        affine[:3, :3] = LPS_TO_RAS @ (self.direction * self.spacing)
        affine[:3, 3] = LPS_TO_RAS @ self.origin
        return affine

    def at(self, index: ArrayLike) -> np.ndarray:
        """Return the position (mm) of an array index, which may be a fraction."""
        return self.origin + (self.direction * self.spacing) @ np.asarray(index, float)

    def cropped(self, start: Sequence[int]) -> "Geometry":
        """Return the geometry of the part of the array that begins at `start`."""
        return replace(self, origin=self.at(start))

    def stepped(self, step: Sequence[float], first: Sequence[float] = (0, 0, 0)) -> "Geometry":
        """Return the geometry of an array whose voxel i lies at index `first` + i * `step`."""
        return replace(self, spacing=self.spacing * np.asarray(step, float), origin=self.at(first))

    def turned(
        self, axes: Sequence[int], flipped: Sequence[bool], shape: Sequence[int]
    ) -> "Geometry":
        """Return the geometry of the array (of `shape`) after `turn` with the same arguments."""
        axes = list(axes)
        corner = np.zeros(3)
        for axis, flip in zip(axes, flipped, strict=True):
            corner[axis] = (shape[axis] - 1) * flip
        signs = np.where(flipped, -1.0, 1.0)
        return Geometry(self.spacing[axes], self.at(corner), self.direction[:, axes] * signs)


def checked_geometry(
    path: Path, columns: np.ndarray, origin: ArrayLike, warnings: list[str]
) -> Geometry:
    """Return the geometry that a header gives, or raise UserError if it cannot be right.

    `columns` (3, 3): the step in mm along each array axis; `origin` (3,): the position of voxel 0.
    Axes that miss the right angle by rounding are made orthogonal; from 1e-4 on a line is added to
    `warnings`. Raises UserError where spacing or origin is not finite, the spacing is not positive,
    the matrix is singular or the axes are slanted.
    """
    columns = np.asarray(columns, float)
    origin = np.asarray(origin, float)
    spacing = np.linalg.norm(columns, axis=0)
    if not np.isfinite(spacing).all() or not (spacing > 0).all():
        shown = " x ".join(f"{mm:g}" for mm in spacing)
        raise UserError(
            f"{path}: the header's spacing is {shown} mm, it must be finite and positive; "
            "export the scan again"
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
            f"{path}: the header's axes are not at right angles; "
            "resample the scan to a straight grid first"
        )
    if slant > ROUNDED:
        warnings.append(
            f"{path}: the header's axes miss the right angle by a cosine of {slant:.2g}; "
            "they are taken as orthogonal"
        )
    if slant > 1e-12:
        direction = nearest_orthogonal(direction)
    return Geometry(spacing, origin, direction)


def nearest_orthogonal(direction: np.ndarray) -> np.ndarray:
    """Return the orthogonal (3, 3) matrix with the smallest distance to `direction`."""
    u, _, vh = np.linalg.svd(direction)
    return u @ vh


def turn(array: np.ndarray, axes: Sequence[int], flipped: Sequence[bool]) -> np.ndarray:
    """Return a view of the array with its axes in the order `axes`, those `flipped` reversed.

    `flipped` is in the new order of the axes.
    """
    return np.flip(array.transpose(tuple(axes)), axis=tuple(np.flatnonzero(flipped)))


def to_canonical(geometry: Geometry) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """Return `canonical` of an array with this geometry."""
    return canonical(geometry.affine)


def canonical(affine: np.ndarray) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """Return the arguments of `turn` that make an array's axes run right, front, head (RAS).

    `affine` (4, 4) maps the array's indices to millimetres in NIfTI's world (RAS). An oblique array
    is turned by right angles only, to the closest orientation.
    """
    orientation = nibabel.io_orientation(affine)
    axes = tuple(int(np.flatnonzero(orientation[:, 0] == world)[0]) for world in range(3))
    return axes, tuple(bool(orientation[axis, 1] < 0) for axis in axes)


def lay_onto(
    name: str, label: np.ndarray, where: Geometry, shape: tuple[int, ...], target: Geometry
) -> tuple[np.ndarray, str | None]:
    """Return the label on the grid of its image, and a warning where their headers disagree.

    `where` is the label's geometry; `shape` and `target` are those of the image. Where the headers
    give the same voxels in another order (a series read L, P, S, its label stored L, A, S), the
    label is turned. Where they give anything else, the arrays are taken as they are, as every
    published preparation does, with a warning. Raises UserError where the shapes differ.
    """
    turned = turned_onto(label, where, shape, target)
    if turned is not None:
        return turned, None
    if label.shape != shape:
        raise UserError(
            f"{name}: the label has {size(label.shape)} voxels, its image {size(shape)}; "
            "replace it by the label of this image"
        )
    distance = voxels_apart(where, target, shape)
    if distance < SAME_GRID:
        return label, None
    warning = (
        f"{name}: by the headers label and image lie up to {distance:.1f} voxels apart; "
        "taken voxel by voxel, look at them together"
    )
    return label, warning


def turned_onto(
    array: np.ndarray, where: Geometry, shape: tuple[int, ...], target: Geometry
) -> np.ndarray | None:
    """Return the array, whose geometry is `where`, turned onto the grid `shape`, `target`.

    None unless the headers give the same voxels in another order.
    """
    relative = np.linalg.inv(target.direction) @ where.direction
    axes = [int(np.abs(row).argmax()) for row in relative]
    flipped = [bool(relative[i, axis] < 0) for i, axis in enumerate(axes)]
    if sorted(axes) != [0, 1, 2] or (axes == [0, 1, 2] and not any(flipped)):
        return None
    turned = turn(array, axes, flipped)
    geometry = where.turned(axes, flipped, array.shape)
    if turned.shape == shape and voxels_apart(geometry, target, shape) < SAME_GRID:
        return turned
    return None


def voxels_apart(first: Geometry, second: Geometry, shape: Sequence[int]) -> float:
    """Return the largest distance between the corners of two grids of one shape.

    It is measured in voxels of `second`.
    """
    last = np.array(shape) - 1
    distances: list[float] = []
    for corner in itertools.product((0, 1), repeat=3):
        index = np.array(corner) * last
        shift = (first.at(index) - second.at(index)) @ second.direction / second.spacing
        distances.append(float(np.linalg.norm(shift)))
    return max(distances)


def size(shape: Sequence[int]) -> str:
    """Return a shape as text for messages, for example 4 x 5 x 6."""
    return " x ".join(map(str, shape))
