"""Time one ACDC self-training step and one validation, and say where the time goes.

    python benchmarks/acdc_step.py --patch_size 128 128 --batch_size 12

Random images; medians of several steps. Every step is also made in the plain way (networks in torch's default memory layout, the
edge-guided module written out as in the paper), the two in turn, so the ratio holds on a noisy machine. Then the same beside busy
processes, if asked for (--neighbours 1), and the peak memory of each kind in a process of its own.
"""

import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import commands  # noqa: F401, I001  before torch: threads wait for work as the scripts' do
import numpy as np
import torch
from torch import nn

from benchmarks.counts import BareFrame
from benchmarks.memory import peaks, say_peak
from methods.edge_guided import DualTeacher
from methods.registry import METHODS
from networks.operations import plain_formulas
from networks.net_factory_ega import net_factory
from datasets import acdc
from training.device import choose_device, place
from evaluation.slices import SlicePredictor
from evaluation.validation import validate
from utils.case import Case
from utils.cli import parse, run

CLASSES = ("background", "right ventricle", "myocardium", "left ventricle")


@dataclass(frozen=True)
class Flags:
    patch_size: tuple[int, int] = (128, 128)
    """Size of the network's input."""
    batch_size: int = 12
    """Images a step, half of them labelled."""
    egm: str = "published"
    """published, corrected or none."""
    steps: int = 7
    """Timed steps of either kind, after two to warm up."""
    threads: int = 0
    """CPU threads; 0: torch's default."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    kinds: Literal["both", "ours", "plain"] = "both"
    """Which kind of step to time."""
    neighbours: int = 0
    """Busy processes, of one thread each, beside which all is timed once more."""
    memory: bool = True
    """Measure the peak memory of each kind as well, in processes of their own (CPU)."""


class Bench:
    """A self-training stage with a clock around each of its parts."""

    def __init__(self, flags: Flags, device: torch.device, plain: bool):
        self.device, self.plain, self.times = device, plain, defaultdict(list)
        torch.manual_seed(0)
        net = net_factory("unet", egm=flags.egm)
        self.student = net.to(device) if plain else place(net, device, 2)
        numbers = {"method": "edge_guided", "egm": flags.egm, "max_iterations": 1000}
        frame = BareFrame(acdc.DATASET, device, ema_decay=0.89, **numbers)
        frame.network = lambda number=0, model=None: self.student
        self.stage = DualTeacher(frame.context(METHODS["edge_guided"].stages[-1]))
        self.optimizer = torch.optim.SGD(
            self.student.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4
        )
        self.stage.pseudo_label = self._timed("teachers", self.stage.pseudo_label)
        n = flags.batch_size // 2
        image = torch.rand(2 * n, 1, *flags.patch_size)
        image = image.to(device) if plain else place(image, device, 2)
        self.batch = {
            "image": image,
            "label": torch.randint(0, 4, (n, *flags.patch_size), device=device),
        }

    def formulas(self) -> AbstractContextManager[None]:
        """Switch the fast operations off for the plain kind of step."""
        if self.plain:
            return plain_formulas()
        return nullcontext()

    def _timed(self, part, function):
        def timed(*arguments):
            with self.clock(part):
                return function(*arguments)

        return timed

    @contextmanager
    def clock(self, part: str):
        began = self._now()
        yield
        self.times[part][-1] += self._now() - began

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def step(self) -> None:
        for part in (
            "whole step",
            "teachers",
            "student forward, loss",
            "student backward",
            "optimiser, EMA",
        ):
            self.times[part].append(0.0)
        with self.formulas(), self.clock("whole step"):
            self.optimizer.zero_grad()
            with self.clock("student forward, loss"):
                for loss in self.stage.losses(self.batch, 0):
                    with self.clock("student backward"):
                        loss.total.backward()
            with self.clock("optimiser, EMA"):
                self.optimizer.step()
                self.stage.after_step(0)
        self.times["student forward, loss"][-1] -= (
            self.times["teachers"][-1] + self.times["student backward"][-1]
        )


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    """So many processes beside this one that do nothing but keep a core busy."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def time_steps(benches: dict[str, Bench], steps: int) -> None:
    """Make so many steps of every kind in turn, after two that do not count, and print what a step took."""
    for count in range(steps + 2):
        for bench in benches.values():
            bench.step()
            if count == 1:
                bench.times.clear()
    columns = {name: bench.times for name, bench in benches.items()}
    both = len(columns) == 2
    print(
        f"{'seconds per step (median)':<26}"
        + "".join(f"{name:>8}{'share':>8}" for name in columns)
        + f"{'plain / ours':>14}" * both
    )
    wholes = {name: statistics.median(times["whole step"]) for name, times in columns.items()}
    for part in next(iter(columns.values())):
        medians = {name: statistics.median(times[part]) for name, times in columns.items()}
        line = f"{part:<26}" + "".join(
            f"{seconds:>8.3f}{seconds / wholes[name]:>8.0%}" for name, seconds in medians.items()
        )
        if both:
            pairs = zip(columns["ours"][part], columns["plain"][part], strict=True)
            line += f"{statistics.median(plain / ours for ours, plain in pairs):>14.2f}"
        print(line, flush=True)


def time_validation(student: nn.Module, flags: Flags, device: torch.device) -> None:
    rng = np.random.default_rng(0)
    cases = [
        Case(str(i), rng.random((1, 10, 216, 256), np.float32), _blobs((10, 216, 256)))
        for i in range(4)
    ]
    seconds = []
    student.eval()
    for _ in range(3):
        began = time.perf_counter()
        validate(
            student, lambda: False, cases, SlicePredictor(flags.patch_size, device).classes, CLASSES
        )
        seconds.append(time.perf_counter() - began)
    print(f"one validation of 20 volumes of 10 slices: {5 * statistics.median(seconds):.1f} s")


def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv, description=__doc__)
    size = "x".join(map(str, flags.patch_size))
    if flags.threads:
        torch.set_num_threads(flags.threads)
    device = choose_device(flags.device)
    print(
        f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}, egm {flags.egm}, batch {flags.batch_size} at {size}"
    )
    kinds = ("ours", "plain") if flags.kinds == "both" else (flags.kinds,)
    benches = {kind: Bench(flags, device, plain=kind == "plain") for kind in kinds}
    time_steps(benches, flags.steps)
    if flags.neighbours:
        print(f"beside {flags.neighbours} busy processes:")
        with neighbours(flags.neighbours):
            time_steps(benches, flags.steps)
    if "ours" in benches and flags.memory:
        time_validation(benches["ours"].student, flags, device)
    if device.type == "cuda":
        print(f"peak memory on the card: {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB")
    elif flags.kinds == "both" and flags.memory:
        sizes = ["--patch_size", *map(str, flags.patch_size), "--batch_size", str(flags.batch_size)]
        peaks(
            __file__,
            kinds,
            "--steps",
            "1",
            "--no_memory",
            "--egm",
            flags.egm,
            "--threads",
            str(flags.threads),
            *sizes,
        )
    else:
        say_peak()


def _blobs(shape: tuple[int, int, int]) -> np.ndarray:
    """Three rings, so that the metrics have surfaces to measure."""
    z, y, x = np.ogrid[tuple(slice(0, n) for n in shape)]
    radius = np.hypot(y - shape[1] / 2, x - shape[2] / 2) + 0 * z
    return np.digitize(-radius, [-60, -45, -30]).astype(np.uint8)


if __name__ == "__main__":
    run(main)
