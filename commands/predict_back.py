"""From the grid of a prepared scan back to that of the scan itself: probabilities, plane by plane."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from datasets.prepare.crop import Box
from datasets.prepare.prepared_files import source_geometry

# voxels; what two grids that differ by turns alone may be apart, by the rounding of the numbers in headers
SAME = 1e-3


@dataclass(frozen=True, eq=False)
class Line:
    """One axis of a prepared scan: the `axis` of the source that runs along it, and where the voxels `start`, `start` + 1 ... of that
    lie, in prepared voxels."""

    axis: int
    start: int
    places: np.ndarray

    @property
    def parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """Each place as two neighbouring voxels and the share of the second."""
        low = np.floor(self.places)
        share = torch.from_numpy((self.places - low).astype(np.float32))
        low = torch.from_numpy(low.astype(np.int64))
        return low, torch.where(share > 0, low + 1, low), share

    def resampled(self, array: Tensor, axis: int) -> Tensor:
        """Linear along `axis` of the array; where every place is a whole number the values are picked as they are."""
        low, high, share = self.parts
        if not share.any():
            return (
                array
                if torch.equal(low, torch.arange(array.shape[axis]))
                else array.index_select(axis, low)
            )
        shape = [1] * array.ndim
        shape[axis] = -1
        return torch.lerp(
            array.index_select(axis, low), array.index_select(axis, high), share.view(shape)
        )


@dataclass(frozen=True)
class WayBack:
    """`lines`: one for each axis of the prepared volume, in its order; `shape`: of the source, in the order of its indices."""

    lines: tuple[Line, Line, Line]
    shape: tuple[int, ...]

    def view(self, array: np.ndarray) -> np.ndarray:
        """An array of the source's grid (axes before its three are kept) as a view in the prepared volume's order, the box alone."""
        extra = array.ndim - 3
        turned = array.transpose(*range(extra), *(extra + line.axis for line in self.lines))
        return turned[
            (..., *(slice(line.start, line.start + len(line.places)) for line in self.lines))
        ]

    def planes(self, planes: Iterator[Tensor]) -> Iterator[tuple[int, Tensor]]:
        """Prepared planes (K, rows, columns) in their order to planes of the source's grid, each with its index in `view`.

        Linear between voxels, exact where the grids differ by turns; beyond the last prepared voxel its value goes on.
        """
        across, rows, columns = self.lines
        low, high, shares = (part.tolist() for part in across.parts)
        wanted: dict[int, list[int]] = {}
        for index, place in enumerate(high):
            wanted.setdefault(place, []).append(index)
        before = None
        for number, plane in enumerate(planes):
            plane = columns.resampled(rows.resampled(plane, 1), 2)
            for index in wanted.get(number, ()):
                yield (
                    index,
                    plane if low[index] == number else torch.lerp(before, plane, shares[index]),
                )
            before = plane


def way_back(shape: Sequence[int], attributes: Mapping, dims: int, box: Box | None) -> WayBack:
    """The way back of a volume of `shape` in memory, prepared with these `attributes`; `box`: what of the source it was made of.

    Every preparation turns, crops and scales along axes, so that each axis of one grid is one of the other's.
    """
    # affines are for indices x, y, z; volumes of 2-D data sets lie in memory slices first
    order = (0, 1, 2) if dims == 3 else (2, 1, 0)
    whole = tuple(int(n) for n in attributes["source_shape"])
    start, stop = box or ((0, 0, 0), whole)
    matrix = np.linalg.inv(np.asarray(attributes["affine"])) @ source_geometry(attributes).affine
    lines = []
    for side, prepared in zip(shape, order, strict=True):
        row = matrix[prepared, :3]
        axis = int(np.abs(row).argmax())
        places = row[axis] * np.arange(start[axis], stop[axis]) + matrix[prepared, 3]
        whole_places = np.rint(places)
        places = np.where(np.abs(places - whole_places) < SAME, whole_places, places).clip(
            0, side - 1
        )
        lines.append(Line(axis, start[axis], places))
    return WayBack(tuple(lines), whole)


def identical(shape: Sequence[int]) -> WayBack:
    """The way back of a volume that is on its source's grid already."""
    return WayBack(
        tuple(Line(axis, 0, np.arange(side, dtype=float)) for axis, side in enumerate(shape)),
        tuple(shape),
    )
