"""Transfer probabilities from the grid of a prepared scan to that of the scan, plane by plane."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datasets.prepare.crop import Box
from datasets.prepare.prepared_files import source_geometry

# voxels; two grids that differ only by turns may differ by this much, by rounding in headers
SAME = 1e-3


@dataclass(frozen=True, eq=False)
class Line:
    """One axis of a prepared scan.

    `axis`: the axis of the source that runs along it. `positions`: where the source's voxels
    `start`, `start` + 1 ... are, in prepared voxels.
    """

    axis: int
    start: int
    positions: np.ndarray

    @property
    def stop(self) -> int:
        """The voxel of the source after the last position."""
        return self.start + len(self.positions)

    @property
    def neighbours(self) -> tuple[Tensor, Tensor, Tensor]:
        """Each position as two neighbouring voxels and the share of the second."""
        floor = np.floor(self.positions)
        share = torch.from_numpy((self.positions - floor).astype(np.float32))
        low = torch.from_numpy(floor.astype(np.int64))
        high = torch.where(share > 0, low + 1, low)
        return low, high, share

    def resampled(self, array: Tensor, axis: int) -> Tensor:
        """Interpolate linearly along `axis` of the array.

        If all positions are whole numbers, the values are picked as they are.
        """
        low, high, share = self.neighbours
        if not share.any():
            if torch.equal(low, torch.arange(array.shape[axis])):
                return array
            return array.index_select(axis, low)
        shape = [1] * array.ndim
        shape[axis] = -1
        first = array.index_select(axis, low)
        second = array.index_select(axis, high)
        return torch.lerp(first, second, share.view(shape))


@dataclass(frozen=True)
class WayBack:
    """From a prepared volume to its source.

    `lines`: one for each axis of the prepared volume, in its order. `shape`: of the source, in the
    order of its indices.
    """

    lines: tuple[Line, Line, Line]
    shape: tuple[int, ...]

    def view(self, array: np.ndarray) -> np.ndarray:
        """View the box of an array of the source's grid in the prepared volume's axis order.

        Axes before the three of the grid are kept.
        """
        extra = array.ndim - 3
        order = [*range(extra), *(extra + line.axis for line in self.lines)]
        box = [slice(line.start, line.stop) for line in self.lines]
        return array.transpose(order)[(..., *box)]

    def planes(self, planes: Iterator[Tensor]) -> Iterator[tuple[int, Tensor]]:
        """Convert prepared planes (K, rows, columns), in their order, to planes of the source's
        grid.

        Each comes with its index in `view`. They are linear between voxels, exact where the grids
        differ by turns; beyond the last prepared voxel its value continues.
        """
        across, rows, columns = self.lines
        low, high, shares = (values.tolist() for values in across.neighbours)
        ready_after: dict[int, list[int]] = {}
        for index, last_needed in enumerate(high):
            ready_after.setdefault(last_needed, []).append(index)
        before: Tensor | None = None
        for number, plane in enumerate(planes):
            plane = columns.resampled(rows.resampled(plane, 1), 2)
            for index in ready_after.get(number, ()):
                if before is None or low[index] == number:
                    yield index, plane
                else:
                    yield index, torch.lerp(before, plane, shares[index])
            before = plane


def way_back(
    shape: Sequence[int], attributes: Mapping[str, Any], dims: int, box: Box | None
) -> WayBack:
    """The way back of a volume of `shape` in memory that was prepared with these `attributes`.

    `box`: the part of the source that was prepared. Every preparation turns, crops and scales along
    axes, so that each axis of one grid is one of the other's.
    """
    # affines are for indices x, y, z; in memory, volumes of 2-D data sets have slices first
    order = (2, 1, 0)
    if dims == 3:
        order = (0, 1, 2)
    whole = tuple(int(n) for n in attributes["source_shape"])
    start, stop = box or ((0, 0, 0), whole)
    matrix = np.linalg.inv(np.asarray(attributes["affine"])) @ source_geometry(attributes).affine
    lines: list[Line] = []
    for side, prepared in zip(shape, order, strict=True):
        row = matrix[prepared, :3]
        axis = int(np.abs(row).argmax())
        positions = row[axis] * np.arange(start[axis], stop[axis]) + matrix[prepared, 3]
        rounded = np.rint(positions)
        positions = np.where(np.abs(positions - rounded) < SAME, rounded, positions)
        lines.append(Line(axis, start=start[axis], positions=positions.clip(0, side - 1)))
    return WayBack(_three(lines), whole)


def identical(shape: Sequence[int]) -> WayBack:
    """The way back of a volume that is already on its source's grid."""
    lines: list[Line] = []
    for axis, side in enumerate(shape):
        lines.append(Line(axis, start=0, positions=np.arange(side, dtype=float)))
    return WayBack(_three(lines), tuple(shape))


def _three(lines: Sequence[Line]) -> tuple[Line, Line, Line]:
    first, second, third = lines
    return first, second, third
