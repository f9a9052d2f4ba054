"""Estimate how much memory predicting will take, from headers only."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from commands.predict_model import Model
from datasets.prepare.prepared_files import RawCase
from evaluation.sliding_window import VolumePredictor
from scans.geometry import Geometry
from scans.reading import read_header as read_scan_header
from training.memory import forward_bytes
from utils.errors import UserError
from utils.messages import message
from utils.names import printable

PROGRAM = 400 * 2**20
"""Bytes of Python and its libraries."""
READ = 24
"""Bytes per voxel while a scan is read and normalised, partly in float64.

Measured: 512 x 512 x 600 voxels took 3.6 GiB in all.
"""
RESAMPLED_FROM = 16
"""Bytes per voxel of a scan while a B-spline resamples it."""
RESAMPLED_TO = 8
"""Bytes per voxel of the result while a B-spline resamples a scan."""
FLOAT = 4
COUNTED = 3
"""Bytes per voxel while the foreground and its border are found, for the means of maps."""
WRITTEN = 3
"""Bytes per voxel of a prediction while it is written: class numbers, and label values."""


@dataclass(frozen=True, eq=False)
class ScanHeader:
    """Size and position of a scan; `path`: its file or folder, `shape`: along the file's axes."""

    path: Path
    shape: tuple[int, ...]
    geometry: Geometry


def report_memory(model: Model, cases: Sequence[RawCase], ahead: int) -> None:
    """Print the estimate for the scan that takes most; nothing if no scan can be read.

    `ahead`: scans that are prepared while the network predicts; they are taken to be as large.
    """
    ahead = min(ahead, len(cases) - 1)
    largest: ScanHeader | None = None
    most = 0
    for case in cases:
        header = read_header(case)
        if header is None:
            continue
        needed = needed_bytes(model, header, ahead)
        if needed > most:
            most = needed
            largest = header
    if largest is not None:
        size = " x ".join(str(side) for side in largest.shape)
        path = printable(str(largest.path))
        line = f"memory: about {most / 2**30:.1f} GiB, for {path} ({size})"
        if ahead > 0:
            less = needed_bytes(model, largest)
            line += f", with --ahead 0 about {less / 2**30:.1f} GiB"
        message(line)


def read_header(case: RawCase) -> ScanHeader | None:
    """Read the header of a scan.

    None for pictures, which are small, and for a scan with a fault, which is reported when its turn
    comes.
    """
    path = case.images[0]
    if case.fault or path.suffix.lower() == ".png":
        return None
    try:
        shape, geometry = read_scan_header(path)
    except UserError:
        return None
    return ScanHeader(path, shape=shape, geometry=geometry)


def needed_bytes(model: Model, header: ScanHeader, ahead: int = 0) -> int:
    """Bytes that a scan of one file or several modalities takes.

    The larger of preparing it and of predicting the prepared scan; their sum if scans of the same
    size are prepared `ahead`, and others written, at the same time. Probabilities that are written
    are kept on disk (`predict_files.ProbabilityFile`).
    """
    shape = prepared_shape(model, header)
    scan = int(np.prod(header.shape))
    prepared = int(np.prod(shape))
    is_resampled = sorted(shape) != sorted(header.shape)
    preparing = _preparing_bytes(model, scan, prepared, is_resampled=is_resampled)
    predicting = _predicting_bytes(model, scan, shape)
    if ahead == 0:
        return PROGRAM + max(preparing, predicting)
    waiting = (ahead - 1) * FLOAT * model.info.channels * prepared
    written = WRITTEN
    if model.uncertainty.kinds:
        written += FLOAT * (len(model.uncertainty.kinds) + 1)  # one in the order of the file
    return PROGRAM + preparing + predicting + waiting + written * scan


def _preparing_bytes(model: Model, scan: int, prepared: int, is_resampled: bool) -> int:
    """`scan`, `prepared`: voxels before and after the preparation."""
    # modalities that are ready, and those that are read
    others = (model.info.channels - 1) * FLOAT * (prepared + scan)
    resampling = 0
    if is_resampled:
        resampling = RESAMPLED_FROM * scan + RESAMPLED_TO * prepared
    return others + max(READ * scan, resampling)


def _predicting_bytes(model: Model, scan: int, shape: tuple[int, ...]) -> int:
    """`shape`: of the prepared scan along x, y, z."""
    info = model.info
    prepared = int(np.prod(shape))
    planes = shape[0]
    if info.dims == 2:
        planes = shape[2]
    needed = FLOAT * info.channels * prepared + scan
    extra = model.uncertainty.extra
    kinds = len(model.uncertainty.kinds)
    if kinds:
        needed += (FLOAT * kinds + COUNTED) * scan
    for member in model.members:
        predictor = member.predictor
        depth = predictor.batch
        if isinstance(predictor, VolumePredictor):
            depth = predictor.patch_size[0]
        maps = info.classes + extra.channels(info.classes)
        slab = FLOAT * maps * depth * prepared // planes
        needed += 3 * slab  # sums over windows, their mean, and its planes on the scan's grid
        if kinds:
            batch = predictor.batch * int(np.prod(predictor.patch_size))
            passes = extra.stacked_passes(predictor.mirror, info.dims)
            needed += 2 * FLOAT * info.classes * passes * batch  # and their copy for the mean
        needed += forward_bytes(member.net, info.channels, predictor.patch_size, predictor.batch)
    return needed


def prepared_shape(model: Model, header: ScanHeader) -> tuple[int, ...]:
    """Voxels of the scan as the network sees it, up to the order of axes."""
    if model.preparation is None:
        return header.shape
    return model.preparation.prepared_shape(header.shape, header.geometry)
