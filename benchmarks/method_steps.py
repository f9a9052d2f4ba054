"""Time a step of pre-training and of self-training on ACDC, method beside method.

    python benchmarks/method_steps.py --patch_size 128 128 --batch_size 12

Random images; the methods take turns, so the ratios hold on a noisy machine. Medians; ratios are medians of those of the turns.
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
from training.precision import Precision
from training.step import train_step
from utils.cli import parse, run


@dataclass(frozen=True)
class Flags:
    methods: tuple[str, ...] = ("edge_guided", "bcp", "averaged_copy_paste")
    """The first one is what the others are held against."""
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


def now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


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
    for name in ("pre_train", "self_train"):
        turns = [
            {method: bench.seconds(name, batch) for method, bench in benches.items()}
            for _ in range(flags.steps + 1)
        ][1:]
        print(f"{name:<30}{'seconds':>9}{'to ' + flags.methods[0]:>16}")
        for method in flags.methods:
            ratio = statistics.median(turn[method] / turn[flags.methods[0]] for turn in turns)
            print(
                f"  {method:<28}{statistics.median(turn[method] for turn in turns):>9.3f}{ratio:>16.2f}"
            )


if __name__ == "__main__":
    run(main)
