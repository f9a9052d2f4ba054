"""Foreground sampling: a share of the labelled samples of a batch is drawn by class, so that a rare
class is seen as often as a large one.

The rule, for each labelled sample by itself: with probability `share` a class is drawn uniformly
from the foreground classes present. In volumes these are the classes of the sample's case; a voxel
of the class is drawn, and the patch has to hold it. Slices are samples as a whole: one of the
labelled slices with the class replaces the sample's slice. nnU-Net (Isensee et al., Nature Methods
2021) has the share 0.33 and puts the voxel in the middle of the patch; here its place in the patch
is drawn too, because the middle of a patch lies inside nearly every copy-paste box.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from dataloaders.contents import foreground_classes

MOST_VOXELS = 10_000
"""Voxels of a class that are kept of each volume, as in nnU-Net."""


class Choice(NamedTuple):
    """The case of a sample, and a voxel that its patch must hold, if any."""

    case: int
    voxel: tuple[int, ...] | None = None


class Foreground(Protocol):
    """Draws labelled samples by class."""

    def add(self, label: np.ndarray) -> None:
        """Index the label (...) of the next labelled case."""
        ...

    def choose(self, case: int, rng: np.random.Generator) -> Choice:
        """Return what is taken for a sample of the case; the generator decides."""
        ...


class VoxelsByClass:
    """Voxels of each foreground class of each labelled volume, at most `MOST_VOXELS` of each."""

    def __init__(self, share: float) -> None:
        self.share = share
        self._shapes: list[tuple[int, ...]] = []
        self._voxels: list[list[np.ndarray]] = []  # of each case, of each class: (n,) indices

    def add(self, label: np.ndarray) -> None:
        """Index a volume; see `Foreground`. Of larger classes evenly spaced voxels are kept."""
        flat = np.ascontiguousarray(label).reshape(-1)
        foreground = np.flatnonzero(flat)
        classes = flat[foreground]
        voxels: list[np.ndarray] = []
        for number in sorted(foreground_classes(label)):
            of_class = foreground[classes == number]
            if len(of_class) > MOST_VOXELS:
                kept = np.linspace(0, len(of_class) - 1, MOST_VOXELS).astype(int)
                of_class = of_class[kept]
            voxels.append(of_class)
        self._shapes.append(label.shape)
        self._voxels.append(voxels)

    def choose(self, case: int, rng: np.random.Generator) -> Choice:
        """Return the case, with a voxel that the patch must hold; see `Foreground`."""
        is_drawn_by_class = rng.random() < self.share
        voxels = self._voxels[case]
        if not is_drawn_by_class or not voxels:
            return Choice(case)
        of_class = voxels[rng.integers(len(voxels))]
        index = of_class[rng.integers(len(of_class))]
        voxel = np.unravel_index(index, self._shapes[case])
        return Choice(case, tuple(map(int, voxel)))


class SlicesByClass:
    """The labelled slices that hold each foreground class."""

    def __init__(self, share: float) -> None:
        self.share = share
        self._count = 0
        self._slices: dict[int, list[int]] = {}

    def add(self, label: np.ndarray) -> None:
        """Index a slice; see `Foreground`."""
        for number in foreground_classes(label):
            self._slices.setdefault(number, []).append(self._count)
        self._count += 1

    def choose(self, case: int, rng: np.random.Generator) -> Choice:
        """Return the slice, or one with the class that is drawn; see `Foreground`."""
        is_drawn_by_class = rng.random() < self.share
        if not is_drawn_by_class or not self._slices:
            return Choice(case)
        classes: Sequence[int] = sorted(self._slices)
        slices = self._slices[classes[rng.integers(len(classes))]]
        return Choice(slices[rng.integers(len(slices))])
