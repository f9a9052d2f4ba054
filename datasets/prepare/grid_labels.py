"""Labels on the grids of their images."""

from pathlib import Path

import numpy as np

from scans.geometry import lay_onto
from scans.reading import Scan, ignore_warning, read_label
from scans.voxel_file import Warn


def read_label_on(
    path: Path, scan: Scan, values: tuple[int, ...], source: str, warn: Warn = ignore_warning
) -> np.ndarray:
    """Read a label onto the grid of its image, in the order of the image's axes.

    `values` and `source`: as in `scans.reading.read_label`. Raises UserError for a label that
    cannot be read, holds other values, or has another shape than the image; `warn` is called where
    the headers disagree.
    """
    label = read_label(path, values, source, warn)
    array, warning = lay_onto(str(path), label.array, label.geometry, scan.shape, scan.geometry)
    warn(warning)
    return array
