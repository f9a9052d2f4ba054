"""Time a step on ACDC, and estimate its memory, method by method.

    python benchmarks/method_steps.py --patch_size 128 128 --batch_size 12
    python benchmarks/method_steps.py --methods bcp mean_teacher ua_mt cps

The pre-training of the methods that have one, then the last stage of all. Random images; the methods take turns, so the ratios hold on
a noisy machine. Times are medians, and ratios medians of those of the turns. Memory is the estimate that training on volumes logs.
"""

import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks.counts import BareFrame
from datasets.acdc import DATASET
from methods.registry import METHODS
from training.device import choose_device, place
from training.memory import step_memory
from training.precision import Precision
from training.step import train_step
from utils.cli import parse, run


@dataclass(frozen=True)
class Flags:
    methods: tuple[str, ...] = ("edge_guided", "bcp", "averaged_copy_paste")
    """The others are compared with the first one."""
    patch_size: tuple[int, int] = (128, 128)
    """Size of the network's input."""
    batch_size: int = 12
    """Images a step, half of them labelled."""
    steps: int = 7
    """Timed steps of each, after one to warm up."""
    threads: int = 1
    """CPU threads."""
    device: str = "cpu"
    """auto, cpu, cuda or mps."""


class Stages:
    """The stages of a method with an optimiser each."""

    def __init__(self, method: str, flags: Flags, device: torch.device):
        numbers = {"method": method, "patch_size": flags.patch_size, "batch_size": flags.batch_size}
        self.device = device
        frame = BareFrame(DATASET, device, **numbers, labeled_bs=flags.batch_size // 2)
        self.specs = {spec.name: spec for spec in METHODS[method].stages}
        self.stages = {name: spec.stage(frame.context(spec)) for name, spec in self.specs.items()}
        rate = partial(torch.optim.SGD, lr=1e-4, momentum=0.9)
        self.optimizers = {
            name: {key: rate(net.parameters()) for key, net in stage.learners.items()}
            for name, stage in self.stages.items()
        }

    def seconds(self, name: str, batch: dict[str, torch.Tensor]) -> float:
        """Of one step of a stage."""
        labelled = len(batch["label"])
        if not self.specs[name].uses_unlabelled:
            batch = batch | {key: batch[key][:labelled] for key in ("image", "plain")}
        began = now(self.device)
        train_step(self.stages[name], self.optimizers[name], batch, 0, Precision(self.device))
        self.stages[name].after_step(0)
        return now(self.device) - began

    def memory(self, name: str, flags: Flags) -> float:
        """Of a step of a stage, in GiB."""
        labelled = flags.batch_size // 2
        unlabelled = 0
        if self.specs[name].uses_unlabelled:
            unlabelled = labelled
        estimate = step_memory(
            self.stages[name],
            labelled,
            unlabelled,
            channels=1,
            patch_size=flags.patch_size,
            moments=1,
        )
        return estimate.step_bytes / 2**30


def now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def table(
    title: str, benches: dict[str, Stages], names: dict[str, str], batch: dict, flags: Flags
) -> None:
    """Print time and memory of a stage of each method; `names`: the stages by method."""
    turns: list[dict[str, float]] = []
    for _ in range(flags.steps + 1):
        turns.append(
            {method: benches[method].seconds(name, batch) for method, name in names.items()}
        )
    turns = turns[1:]  # the first one warms up
    first = next(iter(names))
    memory = {method: benches[method].memory(name, flags) for method, name in names.items()}
    print(f"{title:<30}{'seconds':>9}{'to ' + first:>16}{'GiB':>9}{'to ' + first:>16}")
    for method in names:
        seconds = statistics.median(turn[method] for turn in turns)
        ratio = statistics.median(turn[method] / turn[first] for turn in turns)
        share = memory[method] / memory[first]
        print(f"  {method:<28}{seconds:>9.3f}{ratio:>16.2f}{memory[method]:>9.2f}{share:>16.2f}")


def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv, description=__doc__)
    torch.set_num_threads(flags.threads)
    device = choose_device(flags.device)
    half = flags.batch_size // 2
    image = place(torch.rand(flags.batch_size, 1, *flags.patch_size), device, 2)
    batch = {
        "image": image,
        "plain": image,
        "label": torch.randint(0, 4, (half, *flags.patch_size), device=device),
    }
    benches = {method: Stages(method, flags, device) for method in flags.methods}
    print(
        f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}, batch {flags.batch_size}, {flags.patch_size}"
    )
    pretraining = {
        method: "pre_train" for method in flags.methods if "pre_train" in benches[method].specs
    }
    last = {method: list(bench.specs)[-1] for method, bench in benches.items()}
    if pretraining:
        table("pre-training", benches, pretraining, batch=batch, flags=flags)
    table("last stage", benches, last, batch=batch, flags=flags)


if __name__ == "__main__":
    run(main)
