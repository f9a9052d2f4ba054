"""The interface of a preparation: how the raw scans of one data set become prepared files."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from datasets.prepare.prepared_files import Output, RawCase
from scans.geometry import Geometry
from scans.voxel_file import Warn


class Preparation(Protocol):
    """How the scans of one data set are prepared, for training and for prediction.

    `datasets.prepare.published` has what the published data sets share.
    """

    @property
    def settings(self) -> dict[str, Any]:
        """Everything except the raw scans that decides what is in the prepared files."""
        ...

    @property
    def image_steps(self) -> str:
        """What turns a scan into the input of a network, in words; exported networks carry it."""
        ...

    @property
    def class_values(self) -> tuple[int, ...]:
        """The value of each class in raw labels, the background first. Predictions get these."""
        ...

    def find(self, source: Path) -> list[RawCase]:
        """Find every case below the folder."""
        ...

    def splits(self, cases: Sequence[RawCase]) -> dict[str, str]:
        """The split (train, unlabelled, val or test) by name, of the cases that are prepared by
        default.
        """
        ...

    def last_file(self, case: RawCase) -> str:
        """The file, relative to the root, that is written after all others of the case."""
        ...

    def has_slices(self, case: RawCase) -> bool:
        """Whether the files of the case include its slices, which are trained on."""
        ...

    def prepare(self, case: RawCase, warn: Warn) -> Iterator[Output]:
        """Read a case and yield its files. Raises UserError for faults that the user can fix."""
        ...

    def prepare_picture(self, path: Path, image: np.ndarray) -> np.ndarray:
        """Normalise a 2-D picture (channels, rows, columns); `path` names it in messages."""
        ...

    def prepared_shape(self, shape: Sequence[int], geometry: Geometry) -> tuple[int, ...]:
        """Estimate the shape of the prepared volume, up to the order of axes, without reading the
        scan.
        """
        ...

    def write_lists(self, root: Path) -> list[str]:
        """Write the case lists into the root and return warnings about missing cases."""
        ...
