"""Measure what each operation of `networks/fast/` gains over its plain formula.

    python benchmarks/fast_operations.py --step acdc
    python benchmarks/fast_operations.py --step la --amp

Steps with the plain formula of one operation are compared with steps in which all are fast. One
process and one thread; the kinds of step take turns, and processor time is measured, so that other
work on the machine disturbs little. An operation stays if it gains at least 5 % of a step
(docs/performance.md has the results).
"""

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import commands  # noqa: F401, I001  # sets what OpenMP reads before torch is loaded
import torch

from benchmarks.acdc_step import Bench
from benchmarks.acdc_step import Flags as StepFlags
from networks.net_factory_la_ega import net_factory
from networks.operations import Operation, plain_formulas
from training.device import place
from utils.cli import parse, run

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Flags:
    """Settings of the measurement."""

    step: Literal["acdc", "bcp", "la"] = "acdc"
    """acdc: a self-training step of the edge-guided U-Net; bcp: the same without edge guidance; la:
    a forward and backward pass of the edge-guided V-Net."""
    patch_size: tuple[int, ...] = ()
    """Size of the input. Default: 128 128 for slices, 64 64 48 for volumes."""
    rounds: int = 5
    """Number of steps of each kind, after one that is not measured."""
    amp: bool = False
    """Compute in bfloat16."""
    names: tuple[str, ...] = ()
    """Operations to measure, several of one row joined by +. Default: all with a fast version."""


def slices_step(flags: Flags) -> Callable[[], None]:
    """Return a function that makes one self-training step on slices."""
    egm = "published"
    if flags.step == "bcp":
        egm = "none"
    height, width = flags.patch_size or (128, 128)
    settings = StepFlags(patch_size=(height, width), egm=egm, threads=1)
    return Bench(settings, CPU, plain=False).step


def volume_step(flags: Flags) -> Callable[[], None]:
    """Return a function that makes one pass of the V-Net, forward and backward."""
    net = place(net_factory("VNet"), CPU, 3)
    image = place(torch.randn(2, 1, *(flags.patch_size or (64, 64, 48))), CPU, 3)

    def step() -> None:
        net.zero_grad()
        net(image).float().square().mean().backward()

    return step


def processor_seconds(step: Callable[[], None], amp: bool, plain: str | None) -> float:
    """Processor time of a step in which one operation computes its plain formula."""
    with ExitStack() as contexts:
        contexts.enter_context(torch.autocast("cpu", torch.bfloat16, enabled=amp))
        if plain is not None:
            contexts.enter_context(plain_formulas(*plain.split("+")))
        began = time.process_time()
        step()
        return time.process_time() - began


def main(argv: Sequence[str] | None = None) -> None:
    """Print the processor time of a step, and the ratio for each operation."""
    flags = parse(Flags, argv, description=__doc__)
    torch.set_num_threads(1)
    names = list(flags.names)
    if not names:
        names = [name for name, operation in Operation.all.items() if operation.fast is not None]
    step = volume_step(flags) if flags.step == "la" else slices_step(flags)
    seconds: dict[str | None, list[float]] = {name: [] for name in (None, *names)}
    for number in range(flags.rounds + 1):
        for name, taken in seconds.items():
            elapsed = processor_seconds(step, amp=flags.amp, plain=name)
            if number > 0:
                taken.append(elapsed)
    fast = seconds.pop(None)
    print(f"all operations fast: {statistics.median(fast):.3f} s")
    for name, taken in seconds.items():
        ratios = [plain / best for plain, best in zip(taken, fast, strict=True)]
        print(f"{name:<26} plain / fast {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    run(main)
