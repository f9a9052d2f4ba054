"""Time a training step as it is and compiled or in half precision, the two in turn.

    python benchmarks/two_ways.py --dataset ACDC --patch_size 128 128 --batch_size 12
    python benchmarks/two_ways.py --dataset LA --patch_size 48 48 32 --batch_size 4 --accelerate off --amp bf16

The loop's own step of a method's last stage, random images. The first step is made as it is, the second compiles everything and is told
apart; medians of the others, and the median of the ratios of neighbouring steps.
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

from benchmarks.counts import runner
from datasets.registry import all_datasets
from training.accelerate import Accelerate, accelerated, check_accelerate
from training.device import autocast_type, choose_device
from utils.cli import parse, run


@dataclass(frozen=True)
class Flags:
    dataset: Literal["ACDC", "LA"] = "ACDC"
    """Data set, for its network."""
    patch_size: tuple[int, ...] = (128, 128)
    """Size of the network's input."""
    batch_size: int = 12
    """Images a step, half of them labelled."""
    method: str = "edge_guided"
    """Method, its last stage."""
    accelerate: Accelerate = "compile"
    """What the other step is called by."""
    amp: Literal["off", "bf16", "fp16"] = "off"
    """Precision of the other step."""
    steps: int = 5
    """Timed steps of either kind."""
    threads: int = 1
    """CPU threads."""
    device: str = "cpu"
    """auto, cpu or cuda."""


def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv, description=__doc__)
    torch.set_num_threads(flags.threads)
    device = choose_device(flags.device)
    check_accelerate(
        flags.accelerate, device, recompute=False, amp=autocast_type(flags.amp, device)
    )
    numbers = {
        "method": flags.method,
        "patch_size": flags.patch_size,
        "batch_size": flags.batch_size,
        "labeled_bs": flags.batch_size // 2,
    }
    plain, batch = runner(all_datasets()[flags.dataset], device, **numbers)
    other, _ = runner(all_datasets()[flags.dataset], device, **numbers, amp=flags.amp)
    for loop in (plain, other):  # as `_StageRunner.run` does
        loop.precision.prepare(loop.stage, loop.setup.optimizers.values())
    other.compiled = accelerated(other.stage, flags.accelerate)
    name = f"--accelerate {flags.accelerate} --amp {flags.amp}"
    about = f"{flags.dataset}, {flags.method}, batch {flags.batch_size}, {flags.patch_size}"
    print(
        f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}, {about}",
        flush=True,
    )
    turns = [
        [seconds(loop, batch, device) for loop in (plain, other)] for _ in range(flags.steps + 2)
    ]
    print(f"second step: {turns[1][0]:.2f} s, {name} {turns[1][1]:.1f} s")
    as_is, faster = (statistics.median(column) for column in zip(*turns[2:], strict=True))
    ratio = statistics.median(a / b for a, b in turns[2:])
    print(f"a step: {as_is:.3f} s, {name} {faster:.3f} s, {ratio:.2f} times as fast")


def seconds(loop, batch: dict[str, torch.Tensor], device: torch.device, steps: int = 1) -> float:
    """Seconds a step of so many, the device waited for before and behind all of them."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    began = time.perf_counter()
    for _ in range(steps):
        loop._train_step(batch)
    wait()
    return (time.perf_counter() - began) / steps


if __name__ == "__main__":
    run(main)
