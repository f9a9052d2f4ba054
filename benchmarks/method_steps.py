"""Time a training step, and estimate its memory, for several methods.

    python benchmarks/method_steps.py --patch_size 128 128 --batch_size 12
    python benchmarks/method_steps.py --methods bcp mean_teacher ua_mt cps --json costs.json
    python benchmarks/method_steps.py --dataset LA --patch_size 64 64 32 --batch_size 8

The pre-training of the methods that have one, then the last stage of all, at its last step, when
all ramps are complete. Random images. The methods take turns, so the ratios hold on a busy machine.
Times are medians of the steps; ratios are medians of the ratios of neighbouring steps. Passes are
the images that go forward through any network, as a share of the batch. Memory is the estimate that
training on volumes logs. --json writes the last stage for the leaderboard; there, `pre_time` is the
time of a step of pre-training relative to a step of the first method's last stage.
"""

import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor

from benchmarks.counts import BareRun
from benchmarks.timing import median_ratio
from benchmarks.two_ways import synchronise
from datasets.registry import find_dataset
from evaluation.results import write_json
from methods.registry import METHODS
from training.device import autocast_type, choose_device, place
from training.memory import step_memory
from training.precision import Precision
from training.step import train_step
from utils.cli import parse, run
from utils.provenance import provenance


@dataclass(frozen=True)
class Flags:
    """Flags of method_steps.py."""

    methods: tuple[str, ...] = ("edge_guided", "bcp", "averaged_copy_paste")
    """Methods; the others are compared with the first one."""
    dataset: Literal["ACDC", "LA"] = "ACDC"
    """Data set whose networks and losses are timed."""
    patch_size: tuple[int, ...] = (128, 128)
    """Size of the network's input: two numbers for ACDC, three for LA."""
    batch_size: int = 12
    """Images per step, half of them labelled."""
    steps: int = 7
    """Timed steps of each method, after one to warm up."""
    threads: int = 1
    """CPU threads."""
    amp: Literal["off", "bf16"] = "off"
    """Mixed precision."""
    device: str = "cpu"
    """auto, cpu, cuda or mps."""
    json: Path | None = None
    """File for time, passes and memory of the last stage relative to the first method, for
    code/benchmark.py --costs."""


class Stages:
    """The stages of a method, with an optimiser for each learner."""

    def __init__(self, method: str, flags: Flags, device: torch.device) -> None:
        """Build the stages by their names."""
        numbers = {"method": method, "patch_size": flags.patch_size, "batch_size": flags.batch_size}
        self.device = device
        dataset = find_dataset(flags.dataset)
        bare = BareRun(dataset, device, **numbers, labeled_bs=flags.batch_size // 2)
        self.precision = Precision(device, autocast_type(flags.amp, device))
        self.specs = {spec.name: spec for spec in METHODS[method].stages}
        self.stages = {name: spec.stage(bare.context(spec)) for name, spec in self.specs.items()}
        self.last_step = {name: bare.context(spec).length - 1 for name, spec in self.specs.items()}
        self.optimizers: dict[str, dict[str, torch.optim.Optimizer]] = {}
        for name, stage in self.stages.items():
            self.optimizers[name] = {}
            for key, net in stage.learners.items():
                optimizer = torch.optim.SGD(net.parameters(), lr=1e-4, momentum=0.9)
                self.optimizers[name][key] = optimizer

    def seconds(self, name: str, batch: dict[str, Tensor]) -> float:
        """Return the seconds of one step of the stage with this name."""
        labelled = len(batch["label"])
        if not self.specs[name].uses_unlabelled:
            batch = {key: tensor[:labelled] for key, tensor in batch.items()}
        synchronise(self.device)
        step = self.last_step[name]
        start = time.perf_counter()
        train_step(self.stages[name], self.optimizers[name], batch, step, self.precision)
        self.stages[name].after_step(step)
        synchronise(self.device)
        return time.perf_counter() - start

    def passes(self, name: str, batch: dict[str, Tensor]) -> float:
        """Return the images that go through the networks in a step, as a share of the batch."""
        images: list[int] = []
        hooks = [
            network.register_forward_pre_hook(lambda module, inputs: images.append(len(inputs[0])))
            for network in self.stages[name].networks.values()
        ]
        self.seconds(name, batch)
        for hook in hooks:
            hook.remove()
        return sum(images) / len(batch["image"])

    def memory(self, name: str, flags: Flags) -> float:
        """Return the estimated GiB of a step of the stage with this name."""
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


def print_table(
    title: str,
    methods: Mapping[str, Stages],
    names: Mapping[str, str],
    batch: dict[str, Tensor],
    flags: Flags,
) -> dict[str, dict[str, float]]:
    """Print and return time, passes and memory of a stage of each method.

    "time" and "memory" are relative to the first method. `names`: the stages by method.
    """
    seconds: dict[str, list[float]] = {method: [] for method in names}
    for step in range(flags.steps + 1):
        for method, name in names.items():
            elapsed = methods[method].seconds(name, batch)
            if step > 0:  # the first one warms up
                seconds[method].append(elapsed)
    memory = {method: methods[method].memory(name, flags) for method, name in names.items()}
    first = next(iter(names))
    head = f"{'seconds':>9}{'to ' + first:>16}{'passes':>9}{'GiB':>9}{'to ' + first:>16}"
    print(f"{title:<30}{head}")
    costs: dict[str, dict[str, float]] = {}
    for method, values in seconds.items():
        ratio = median_ratio(values, seconds[first])
        share = memory[method] / memory[first]
        passes = methods[method].passes(names[method], batch)
        median = statistics.median(values)
        numbers = f"{median:>9.3f}{ratio:>16.2f}{passes:>9.2f}{memory[method]:>9.2f}{share:>16.2f}"
        print(f"  {method:<28}{numbers}")
        costs[method] = {"seconds": median, "time": ratio, "passes": passes, "memory": share}
    return costs


def main(argv: Sequence[str] | None = None) -> None:
    """Print a table of the pre-training and one of the last stage."""
    flags = parse(Flags, argv, description=__doc__)
    torch.set_num_threads(flags.threads)
    device = choose_device(flags.device)
    dataset = find_dataset(flags.dataset)
    image = torch.rand(flags.batch_size, 1, *flags.patch_size)
    image = place(image, device, dataset.info.dims)
    shape = (flags.batch_size // 2, *flags.patch_size)
    label = torch.randint(0, dataset.info.classes, shape, device=device)
    batch = {"image": image, "plain": image, "label": label}
    print(
        f"{flags.dataset}, {device}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"batch {flags.batch_size}, {flags.patch_size}"
    )
    methods = {method: Stages(method, flags, device) for method in flags.methods}
    pretraining: dict[str, str] = {}
    last: dict[str, str] = {}
    for method, stages in methods.items():
        last[method] = list(stages.specs)[-1]
        if "pre_train" in stages.specs:
            pretraining[method] = "pre_train"
    before: dict[str, dict[str, float]] = {}
    if pretraining:
        before = print_table("pre-training", methods, names=pretraining, batch=batch, flags=flags)
    costs = print_table("last stage", methods, names=last, batch=batch, flags=flags)
    if flags.json is not None:
        for method, cost in before.items():
            reference = costs[flags.methods[0]]["seconds"]
            costs[method]["pre_time"] = cost["seconds"] / reference
        rounded = {
            method: {name: round(value, 3) for name, value in cost.items()}
            for method, cost in costs.items()
        }
        write_json(flags.json, {**provenance(), "methods": rounded})


if __name__ == "__main__":
    run(main)
