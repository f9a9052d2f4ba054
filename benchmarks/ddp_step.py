"""Time a step with two processes: our averaging of gradients, and DistributedDataParallel.

    python benchmarks/ddp_step.py --dataset ACDC --patch_size 128 128 --batch_size 12

Random images, gloo, one thread per process. Both kinds take turns in the same two processes, so the
ratio holds on a noisy machine. DistributedDataParallel is given what our loop does not know: how
many losses a step has. All passes but the last run within `no_sync`.
"""

import multiprocessing
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from benchmarks.counts import BareRun
from datasets.registry import all_datasets
from methods.base import TrainingStage
from methods.registry import METHODS
from training.device import place
from training.precision import Precision
from training.step import train_step
from utils.cli import parse, run

CPU = torch.device("cpu")
RENDEZVOUS = "tcp://localhost:29531"


@dataclass(frozen=True)
class Flags:
    """Flags of the benchmark."""

    dataset: Literal["ACDC", "LA"] = "ACDC"
    """Data set whose network and losses are used."""
    method: str = "bcp"
    """Method, its last stage."""
    patch_size: tuple[int, ...] = (128, 128)
    """Size of the network's input."""
    batch_size: int = 12
    """Images per step in both processes together, half of them labelled."""
    steps: int = 15
    """Timed steps of each kind, after three to warm up."""
    losses: int = 2
    """Losses of a step, for DistributedDataParallel."""


def new_stage(flags: Flags) -> TrainingStage:
    """Return a stage; its weights are the same at every call."""
    dataset = all_datasets()[flags.dataset]
    bare = BareRun(
        dataset,
        CPU,
        method=flags.method,
        patch_size=flags.patch_size,
        batch_size=flags.batch_size,
        labeled_bs=flags.batch_size // 2,
    )
    return METHODS[flags.method].stages[-1].stage(bare.context(METHODS[flags.method].stages[-1]))


def new_optimizers(stage: TrainingStage) -> dict[str, torch.optim.Optimizer]:
    """Return an optimiser for each learner."""
    return {
        name: torch.optim.SGD(network.parameters(), lr=1e-4, momentum=0.9)
        for name, network in stage.learners.items()
    }


class Ours:
    """The step of our loop."""

    def __init__(self, flags: Flags) -> None:
        """Build stage and optimisers."""
        self.stage = new_stage(flags)
        self.optimizers = new_optimizers(self.stage)

    def step(self, batch: dict[str, Tensor]) -> None:
        """Make a step."""
        train_step(self.stage, self.optimizers, batch, 0, Precision(CPU))
        self.stage.after_step(0)


class WithDDP:
    """The same step with one DistributedDataParallel per learner."""

    def __init__(self, flags: Flags) -> None:
        """Build stage and optimisers, and wrap the learners."""
        self.stage = new_stage(flags)
        self.optimizers = new_optimizers(self.stage)
        self.losses = flags.losses
        self.learners: dict[str, DistributedDataParallel] = {}
        for name, network in self.stage.learners.items():
            self.learners[name] = DistributedDataParallel(
                network, broadcast_buffers=False, gradient_as_bucket_view=True
            )
        own_callable = self.stage._callable
        self.stage._callable = lambda name: self.learners.get(name) or own_callable(name)

    def step(self, batch: dict[str, Tensor]) -> None:
        """Make a step."""
        for network in self.stage.learners.values():
            network.train()
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        losses = self.stage.losses(batch, 0)
        for number in range(self.losses):
            with ExitStack() as stack:
                if number < self.losses - 1:
                    for learner in self.learners.values():
                        stack.enter_context(learner.no_sync())
                next(losses).total.backward()
        assert next(losses, None) is None, "--losses is not the number of losses of a step"
        for optimizer in self.optimizers.values():
            optimizer.step()
        self.stage.take_logged()
        self.stage.after_step(0)


def member(rank: int, flags: Flags) -> None:
    """Be one of the two processes."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=RENDEZVOUS, rank=rank, world_size=2, timeout=timedelta(minutes=5)
    )
    torch.manual_seed(rank)
    half = flags.batch_size // 4
    info = all_datasets()[flags.dataset].info
    batch = {
        "image": place(torch.rand(2 * half, info.channels, *flags.patch_size), CPU, info.dims),
        "label": torch.randint(0, info.classes, (half, *flags.patch_size)),
    }
    kinds = {"ours": Ours(flags), "DDP": WithDDP(flags)}
    seconds: dict[str, list[float]] = {"ours": [], "DDP": []}
    for turn in range(flags.steps + 3):
        for name, kind in kinds.items():
            torch.manual_seed(turn)
            dist.barrier()
            began = time.perf_counter()
            kind.step(batch)
            dist.barrier()
            if turn >= 3:
                seconds[name].append(time.perf_counter() - began)
    if rank == 0:
        report(kinds, seconds)
    dist.destroy_process_group()


def report(kinds: dict[str, "Ours | WithDDP"], seconds: dict[str, list[float]]) -> None:
    """Print the medians, the ratio and how far the weights of both kinds lie apart."""
    pairs = zip(seconds["ours"], seconds["DDP"], strict=True)
    ratio = statistics.median(ddp / ours for ours, ddp in pairs)
    ours = statistics.median(seconds["ours"])
    ddp = statistics.median(seconds["DDP"])
    weights = [list(kind.stage.student.parameters()) for kind in kinds.values()]
    apart = max(float((a - b).abs().max()) for a, b in zip(*weights, strict=True))
    print(f"seconds per step: ours {ours:.3f}, DDP {ddp:.3f}; DDP / ours {ratio:.3f}")
    print(f"fastest step: ours {min(seconds['ours']):.3f}, DDP {min(seconds['DDP']):.3f}")
    print(f"largest difference of a weight {apart:.1e}", flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Time both kinds."""
    flags = parse(Flags, argv, description=__doc__)
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=member, args=(rank, flags)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()


if __name__ == "__main__":
    run(main)
