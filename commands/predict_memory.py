"""How much memory predicting will take, told before it begins: from headers, no voxel is read."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from commands.predict_model import Model
from datasets.prepare.prepared_files import RawCase
from evaluation.slices import SlicePredictor
from scans.geometry import Geometry
from scans.reading import read_header as read_scan_header
from training.memory import forward_bytes
from utils.errors import UserError
from utils.messages import message
from utils.names import printable

PROGRAM = 400 * 2**20
"""Bytes of Python and its libraries."""
READ = 24
"""Bytes per voxel while a scan is read and normalised, in float64 for a moment; measured: 512 x 512 x 600 voxels took 3.6 GiB in all."""
RESAMPLED = (16, 8)
"""Bytes per voxel of a scan and of what it becomes, while a B-spline resamples the one to the other."""


@dataclass(frozen=True, eq=False)
class Header:
    """Of a scan: its file or folder; voxels along the file's axes, and where these lie."""

    path: Path
    shape: tuple[int, ...]
    geometry: Geometry


def say_memory(model: Model, cases: Sequence[RawCase]) -> None:
    """Print what the scan that takes most will take; nothing where there is no scan that can be read."""
    needed = {
        header: needed_bytes(model, header)
        for case in cases
        if (header := read_header(case)) is not None
    }
    if needed:
        header = max(needed, key=needed.get)
        size = " x ".join(map(str, header.shape))
        path = printable(str(header.path))
        message(f"memory: about {needed[header] / 2**30:.1f} GiB, for {path} ({size})")


def read_header(case: RawCase) -> Header | None:
    """None for pictures, which are small, and where there is a fault, which is told when its turn comes."""
    path = case.images[0]
    if case.fault or path.suffix.lower() == ".png":
        return None
    try:
        shape, geometry = read_scan_header(path)
    except UserError:
        return None
    return Header(path, shape, geometry)


def needed_bytes(model: Model, header: Header) -> int:
    """What a scan of one file or several modalities takes: the larger of preparing it and of predicting what that makes of it.

    Probabilities that are to be kept lie on disk (`predict_files.probability_file`).
    """
    info, scan, made = model.info, int(np.prod(header.shape)), prepared_shape(model, header)
    prepared = int(np.prod(made))
    before = (info.channels - 1) * (
        4 * prepared + 4 * scan
    )  # modalities that are ready, and those that are read
    preparing = before + max(
        READ * scan,
        RESAMPLED[0] * scan + RESAMPLED[1] * prepared
        if sorted(made) != sorted(header.shape)
        else 0,
    )
    predicting = 4 * info.channels * prepared + scan
    for member in model.members:
        predictor = member.predictor
        depth = (
            predictor.batch if isinstance(predictor, SlicePredictor) else predictor.patch_size[0]
        )
        planes = 4 * info.classes * depth * prepared // made[0 if info.dims == 3 else 2]
        predicting += 3 * planes  # sums over windows, their mean, and its planes on the scan's grid
        predicting += forward_bytes(
            member.net, info.channels, predictor.patch_size, predictor.batch
        )
    return PROGRAM + max(preparing, predicting)


def prepared_shape(model: Model, header: Header) -> tuple[int, ...]:
    """Voxels of the scan as the network sees it, up to the order of axes."""
    if model.preparation is None:
        return header.shape
    return model.preparation.prepared_shape(header.shape, header.geometry)
