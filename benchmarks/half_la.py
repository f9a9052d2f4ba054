"""Write LA scans at half resolution, so that a patch for a CPU covers much of the heart.

    python benchmarks/half_la.py --root_path data_split/LA --dest half_la --validation 4

Blocks of 2x2x2 voxels become one voxel: the mean of the image (z-scored again), and foreground if
at least half of the block is. The last `validation` cases of train.list become val.list. Short runs
on a CPU use these scans (docs/results/la.md, docs/results/cogrnet.md).
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dataloaders.cases import read_volume
from dataloaders.hdf5 import read_list
from dataloaders.phantom.case_files import write_case, write_lists
from datasets.la import INFO as LA
from utils.cli import parse, run
from utils.progress import progress


@dataclass(frozen=True)
class HalvingSettings:
    """Settings of half_la.py."""

    root_path: Path
    """Folder of the LA data."""
    dest: Path
    """Folder for the halved scans."""
    validation: int = 4
    """Number of training cases to hold out for val.list."""


def halved(volume: np.ndarray) -> np.ndarray:
    """Return the mean of blocks of 2x2x2 voxels; an odd last voxel is dropped."""
    x, y, z = [side // 2 for side in volume.shape]
    even = volume[: 2 * x, : 2 * y, : 2 * z].astype(np.float32)
    return even.reshape(x, 2, y, 2, z, 2).mean((1, 3, 5))


def halve(argv: Sequence[str] | None = None, description: str | None = None) -> None:
    """Write the halved scans and their lists."""
    settings = parse(HalvingSettings, argv, description=description)
    train = read_list(settings.root_path, LA.name, LA.train_list)
    test = read_list(settings.root_path, LA.name, LA.test_list)
    lists = {
        "train.list": train[: -settings.validation],
        "val.list": train[-settings.validation :],
        "test.list": test,
    }
    settings.dest.mkdir(parents=True, exist_ok=True)
    write_lists(settings.dest, lists)
    for name in progress([*train, *test], desc="halving", unit="scan"):
        case = read_volume(LA, LA.path(settings.root_path, name), name)
        image = halved(case.image[0])
        scores = (image - image.mean()) / image.std()
        label = (halved(case.label) >= 0.5).astype(np.uint8)
        write_case(LA.path(settings.dest, name), scores, label)


if __name__ == "__main__":
    run(lambda argv: halve(argv, description=__doc__))
