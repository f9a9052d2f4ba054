"""Print how far each method is from recorded iterations of its published code
(tests/vectors/methods/README.md).

    python benchmarks/vector_differences.py
    python benchmarks/vector_differences.py --vectors mt_2d cps_2d

Columns: iterations; the largest relative difference of the total loss over all of them; of any
named loss; of the listed weights at the end, relative to a tensor's largest entry; and what float32
and float64 of the published run differ by in the loss.
"""

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch
from method_vectors import loss_difference, published_run, record, weight_differences
from test_method_vectors import CASES

from utils.cli import parse, run
from utils.errors import UserError
from utils.messages import message


@dataclass(frozen=True)
class Flags:
    vectors: tuple[str, ...] = ()
    """Names of vectors; all by default."""


def row(name: str) -> str:
    """Return the line of a vector."""
    vector = CASES[name]
    with tempfile.TemporaryDirectory() as folder:
        recording = record(name, vector, Path(folder))
    published = published_run(name)
    losses = {
        plain: loss_difference(name, recording, plain, ours).max()
        for plain, ours in vector.names.items()
    }
    weights = weight_differences(name, vector, recording)
    largest_weight = max(max(differences.values()) for differences in weights.values())
    numbers = (
        losses["loss"],
        max(losses.values()),
        largest_weight,
        max(published["rounding"]["loss"]),
    )
    cells = " | ".join(f"{number:.0e}" for number in numbers)
    return f"| `{name}` | {published['steps']} | {cells} |"


def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv, description=__doc__)
    unknown = set(flags.vectors) - CASES.keys()
    if unknown:
        raise UserError(f"--vectors {min(unknown)}: unknown; choose from {', '.join(CASES)}")
    torch.set_num_threads(1)
    rows = [row(name) for name in flags.vectors or CASES]
    message("| vector | iterations | loss | any named loss | weights | rounding of the loss |")
    message("|---|---|---|---|---|---|")
    for line in rows:
        message(line)


if __name__ == "__main__":
    run(main)
