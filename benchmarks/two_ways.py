"""Time a training step as it is and compiled or in half precision; the two take turns.

    python benchmarks/two_ways.py --dataset ACDC --patch_size 128 128 --batch_size 12
    python benchmarks/two_ways.py --dataset LA --patch_size 48 48 32 --batch_size 4
    python benchmarks/two_ways.py --accelerate off --amp bf16

The loop's own step of a method's last stage, random images. The second step compiles everything and
is reported separately. Then follow medians of the other steps, and the median of the ratios of
neighbours.
"""

import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor

from benchmarks.counts import runner
from benchmarks.timing import median_ratio
from datasets.registry import all_datasets
from training.accelerate import Accelerate, accelerated, check_accelerate
from training.device import autocast_type, choose_device
from training.loop import _StageRunner
from utils.cli import parse, run


@dataclass(frozen=True)
class Flags:
    """Flags of two_ways.py."""

    dataset: Literal["ACDC", "LA"] = "ACDC"
    """Data set, for its network."""
    patch_size: tuple[int, ...] = (128, 128)
    """Size of the network's input."""
    batch_size: int = 12
    """Images per step, half of them labelled."""
    method: str = "edge_guided"
    """Method; its last stage is timed."""
    accelerate: Accelerate = "compile"
    """How the other step calls its networks."""
    amp: Literal["off", "bf16", "fp16"] = "off"
    """Precision of the other step."""
    steps: int = 5
    """Timed steps of each kind."""
    threads: int = 1
    """CPU threads."""
    device: str = "cpu"
    """auto, cpu or cuda."""


def seconds_per_step(
    loop: _StageRunner, batch: dict[str, Tensor], device: torch.device, steps: int = 1
) -> float:
    """Return the mean seconds of `steps` steps, waiting for the device before and after them."""
    synchronise(device)
    start = time.perf_counter()
    for _ in range(steps):
        loop._train_step(batch)
    synchronise(device)
    return (time.perf_counter() - start) / steps


def synchronise(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def main(argv: Sequence[str] | None = None) -> None:
    """Time both kinds of step in turn and print the medians."""
    flags = parse(Flags, argv, description=__doc__)
    torch.set_num_threads(flags.threads)
    device = choose_device(flags.device)
    amp = autocast_type(flags.amp, device)
    check_accelerate(flags.accelerate, device, recompute=False, amp=amp)
    dataset = all_datasets()[flags.dataset]
    numbers = {
        "method": flags.method,
        "patch_size": flags.patch_size,
        "batch_size": flags.batch_size,
        "labeled_bs": flags.batch_size // 2,
    }
    plain, batch = runner(dataset, device, **numbers)
    other, _ = runner(dataset, device, **numbers, amp=flags.amp)
    for loop in (plain, other):  # as `_StageRunner.run` does
        loop.precision.prepare(loop.stage, loop.setup.optimizers.values())
    other.compiled = accelerated(other.stage, flags.accelerate)
    print(
        f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"{flags.dataset}, {flags.method}, batch {flags.batch_size}, {flags.patch_size}",
        flush=True,
    )
    plain_seconds: list[float] = []
    other_seconds: list[float] = []
    for _ in range(flags.steps + 2):
        plain_seconds.append(seconds_per_step(plain, batch, device))
        other_seconds.append(seconds_per_step(other, batch, device))
    name = f"--accelerate {flags.accelerate} --amp {flags.amp}"
    print(f"second step: {plain_seconds[1]:.2f} s, {name} {other_seconds[1]:.1f} s")
    print(
        f"a step: {statistics.median(plain_seconds[2:]):.3f} s, "
        f"{name} {statistics.median(other_seconds[2:]):.3f} s, "
        f"{median_ratio(plain_seconds[2:], other_seconds[2:]):.2f} times as fast"
    )


if __name__ == "__main__":
    run(main)
