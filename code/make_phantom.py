"""Write synthetic cardiac MR in the layout of a public data set, to try everything without the real data.

python code/make_phantom.py --root DATA
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dataloaders.phantom import write_acdc_phantom
from utils.cli import parse, run


@dataclass(frozen=True)
class Flags:
    root: Path
    """Folder to write into; made if missing."""
    dataset: Literal["ACDC"] = "ACDC"
    """Whose layout to write."""
    train: int = 20
    """Training patients, written as slices."""
    val: int = 4
    """Validation patients, written as volumes."""
    test: int = 6
    """Test patients, written as volumes."""
    size: int = 128
    """Mean side of an image in pixels."""
    seed: int = 1337
    """Which population to draw."""


def main() -> None:
    flags = parse(Flags, description=__doc__)
    write_acdc_phantom(flags.root, flags.train, flags.val, flags.test, flags.size, flags.seed)
    slices = len((flags.root / "train_slices.list").read_text().split())
    print(
        f"wrote {slices} training slices of {flags.train} patients, {2 * flags.val} validation and {2 * flags.test} test volumes"
        f" below {flags.root}; next: python code/ACDC_labelnum3_train.py --root_path {flags.root}"
    )


if __name__ == "__main__":
    run(main)
