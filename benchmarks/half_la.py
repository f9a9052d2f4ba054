"""Write LA scans at half resolution, so that a patch a CPU can afford covers as much of the heart as the published one.

    python benchmarks/half_la.py --root_path data_split/LA --dest half_la --validation 4

Blocks of 2x2x2 voxels become one voxel: the mean of the image (z-scored again), and foreground if at least half of the block is. The last
`validation` cases of train.list become val.list. Short runs on a CPU use these scans (docs/results/la.md, docs/results/cogrnet.md).
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dataloaders.cases import read_volume
from dataloaders.hdf5 import read_list
from dataloaders.phantom.case_files import write_case
from datasets.la import INFO as LA
from utils.cli import parse, run
from utils.progress import progress


@dataclass(frozen=True)
class HalvingSettings:
    root_path: Path
    """Folder of the LA data."""
    dest: Path
    """Folder to write into."""
    validation: int = 4
    """How many training cases to hold out for val.list."""


def halved(volume: np.ndarray) -> np.ndarray:
    """Mean of blocks of 2x2x2 voxels; an odd last voxel is dropped."""
    x, y, z = (side // 2 for side in volume.shape)
    return (
        volume[: 2 * x, : 2 * y, : 2 * z]
        .astype(np.float32)
        .reshape(x, 2, y, 2, z, 2)
        .mean((1, 3, 5))
    )


def halve(argv: Sequence[str] | None = None, description: str = "") -> None:
    """Write the halved scans and their lists."""
    flags = parse(HalvingSettings, argv, description=description)
    train, test = (
        read_list(flags.root_path, LA.name, name) for name in (LA.train_list, LA.test_list)
    )
    lists = {
        "train.list": train[: -flags.validation],
        "val.list": train[-flags.validation :],
        "test.list": test,
    }
    flags.dest.mkdir(parents=True, exist_ok=True)
    for name, cases in lists.items():
        (flags.dest / name).write_text("\n".join(cases) + "\n", encoding="utf-8")
    for name in progress([*train, *test], desc="halving", unit="scan"):
        case = read_volume(LA, LA.path(flags.root_path, name), name)
        image = halved(case.image[0])
        path = LA.path(flags.dest, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_case(
            path, (image - image.mean()) / image.std(), (halved(case.label) >= 0.5).astype(np.uint8)
        )


if __name__ == "__main__":
    run(lambda: halve(description=__doc__))
