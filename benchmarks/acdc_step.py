"""Time the parts of an ACDC self-training step, and one validation.

    python benchmarks/acdc_step.py --patch_size 128 128 --batch_size 12

Random images; medians of several steps. Every step is also made in the plain way (plain formulas of
`networks/operations.py`, torch's default memory layout); the two take turns, so the ratio holds on
a busy machine. With --neighbours 1 all is timed again next to a busy process. The peak memory of
each kind is measured in a separate process.
"""

import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, ParamSpec, TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import commands  # noqa: F401, I001  before torch: sets how threads wait for work, as the scripts do
import numpy as np
import torch
from torch import nn

from benchmarks.counts import BareRun
from benchmarks.memory import peaks, say_peak
from benchmarks.timing import median_ratio
from commands.stage_context import RunStageContext
from datasets import acdc
from evaluation.slices import SlicePredictor
from evaluation.validation import validate
from methods.edge_guided import DualTeacher
from methods.registry import METHODS
from networks.net_factory_ega import net_factory
from networks.operations import plain_formulas
from training.device import choose_device, place
from utils.case import Case
from utils.cli import parse, run

CLASSES = ("background", "right ventricle", "myocardium", "left ventricle")
WHOLE = "whole step"
TEACHERS = "teachers"
FORWARD = "student forward, loss"
BACKWARD = "student backward"
UPDATE = "optimiser, EMA"
PARTS = (WHOLE, TEACHERS, FORWARD, BACKWARD, UPDATE)

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Flags:
    """Flags of acdc_step.py."""

    patch_size: tuple[int, int] = (128, 128)
    """Size of the network's input."""
    batch_size: int = 12
    """Images per step, half of them labelled."""
    egm: str = "published"
    """published, corrected or none."""
    steps: int = 7
    """Timed steps of each kind, after two to warm up."""
    threads: int = 0
    """CPU threads; 0: torch's default."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    kinds: Literal["both", "ours", "plain"] = "both"
    """Which kind of step to time."""
    neighbours: int = 0
    """Number of busy processes, of one thread each, next to which all is timed again."""
    memory: bool = True
    """Also measure the peak memory of each kind, in separate processes (CPU)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class StudentContext(RunStageContext):
    """What a stage is built from, with a network that exists already."""

    student: nn.Module

    def network(self, number: int = 0, model: str | None = None) -> nn.Module:
        """Return the existing network."""
        return self.student


class Bench:
    """A self-training stage with a clock around each of its parts."""

    def __init__(self, flags: Flags, device: torch.device, plain: bool) -> None:
        """Build the stage, its optimiser and a random batch."""
        torch.manual_seed(0)
        half = flags.batch_size // 2
        net = net_factory("unet", egm=flags.egm)
        image = torch.rand(2 * half, 1, *flags.patch_size)
        self.device = device
        self.times: defaultdict[str, list[float]] = defaultdict(list)
        if plain:
            self.formulas = plain_formulas
            self.student = net.to(device)
            image = image.to(device)
        else:
            self.formulas = nullcontext
            self.student = place(net, device, 2)
            image = place(image, device, 2)
        numbers = {"method": "edge_guided", "egm": flags.egm, "max_iterations": 1000}
        new_context = partial(StudentContext, student=self.student)
        bare = BareRun(acdc.DATASET, device, new_context, ema_decay=0.89, **numbers)
        self.stage = DualTeacher(bare.context(METHODS["edge_guided"].stages[-1]))
        self.optimizer = torch.optim.SGD(
            self.student.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4
        )
        self.stage.pseudo_label = self._timed(TEACHERS, self.stage.pseudo_label)
        label = torch.randint(0, 4, (half, *flags.patch_size), device=device)
        self.batch = {"image": image, "label": label}

    def _timed(
        self, part: str, function: Callable[Arguments, Result]
    ) -> Callable[Arguments, Result]:
        def timed(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
            with self.clock(part):
                return function(*args, **kwargs)

        return timed

    @contextmanager
    def clock(self, part: str) -> Generator[None, None, None]:
        """Add the seconds of the context to the part's time in the present step."""
        start = self._now()
        yield
        self.times[part][-1] += self._now() - start

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def step(self) -> None:
        """Make a step and record the time of each part."""
        for part in PARTS:
            self.times[part].append(0.0)
        with self.formulas(), self.clock(WHOLE):
            self.optimizer.zero_grad()
            with self.clock(FORWARD):
                for loss in self.stage.losses(self.batch, 0):
                    with self.clock(BACKWARD):
                        loss.total.backward()
            with self.clock(UPDATE):
                self.optimizer.step()
                self.stage.after_step(0)
        # the loss generator also runs the teachers, and the clock runs during the backward pass
        self.times[FORWARD][-1] -= self.times[TEACHERS][-1] + self.times[BACKWARD][-1]

    def median(self, part: str) -> float:
        """Return the median seconds of a part."""
        return statistics.median(self.times[part])


@contextmanager
def busy_neighbours(count: int) -> Generator[None, None, None]:
    """Start processes that only keep a core busy; end them after the context."""
    command = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(command) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def time_steps(benches: Mapping[str, Bench], steps: int) -> None:
    """Make steps of every kind in turn, after two that do not count, and print the times."""
    for number in range(steps + 2):
        for bench in benches.values():
            bench.step()
            if number == 1:
                bench.times.clear()
    has_both = len(benches) == 2
    head = "".join(f"{name:>8}{'share':>8}" for name in benches)
    line = f"{'seconds per step (median)':<26}{head}"
    if has_both:
        line += f"{'plain / ours':>14}"
    print(line)
    for part in PARTS:
        line = f"{part:<26}"
        for bench in benches.values():
            seconds = bench.median(part)
            line += f"{seconds:>8.3f}{seconds / bench.median(WHOLE):>8.0%}"
        if has_both:
            plain = benches["plain"].times[part]
            line += f"{median_ratio(plain, benches['ours'].times[part]):>14.2f}"
        print(line, flush=True)


def time_validation(student: nn.Module, flags: Flags, device: torch.device) -> None:
    """Print the seconds of a validation, measured on four volumes."""
    rng = np.random.default_rng(0)
    shape = (10, 216, 256)
    cases: list[Case] = []
    for number in range(4):
        image = rng.random((1, *shape), np.float32)
        cases.append(Case(str(number), image, nested_rings(shape)))
    predict = SlicePredictor(flags.patch_size, device).classes
    seconds: list[float] = []
    student.eval()
    for _ in range(3):
        start = time.perf_counter()
        validate(student, lambda: False, cases, predict, CLASSES)
        seconds.append(time.perf_counter() - start)
    print(f"one validation of 20 volumes of 10 slices: {5 * statistics.median(seconds):.1f} s")


def nested_rings(shape: tuple[int, int, int]) -> np.ndarray:
    """Return a label of three nested rings, so that the metrics have surfaces to measure."""
    z, y, x = np.ogrid[: shape[0], : shape[1], : shape[2]]
    radius = np.hypot(y - shape[1] / 2, x - shape[2] / 2) + 0 * z
    return np.digitize(-radius, [-60, -45, -30]).astype(np.uint8)


def print_memory(flags: Flags, kinds: Sequence[str], device: torch.device) -> None:
    """Print the peak memory: of the GPU, of each kind, or of this process."""
    if device.type == "cuda":
        print(f"peak memory on the card: {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB")
    elif flags.kinds == "both" and flags.memory:
        arguments = ["--steps", "1", "--no_memory", "--egm", flags.egm]
        arguments += ["--threads", str(flags.threads), "--batch_size", str(flags.batch_size)]
        arguments += ["--patch_size", *map(str, flags.patch_size)]
        peaks(__file__, kinds, *arguments)
    else:
        say_peak()


def main(argv: Sequence[str] | None = None) -> None:
    """Time the kinds of step, a validation, and the peak memory."""
    flags = parse(Flags, argv, description=__doc__)
    if flags.threads:
        torch.set_num_threads(flags.threads)
    device = choose_device(flags.device)
    size = "x".join(map(str, flags.patch_size))
    print(
        f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"egm {flags.egm}, batch {flags.batch_size} at {size}"
    )
    kinds: list[str] = [flags.kinds]
    if flags.kinds == "both":
        kinds = ["ours", "plain"]
    benches = {kind: Bench(flags, device, plain=kind == "plain") for kind in kinds}
    time_steps(benches, flags.steps)
    if flags.neighbours:
        print(f"next to {flags.neighbours} busy processes:")
        with busy_neighbours(flags.neighbours):
            time_steps(benches, flags.steps)
    if "ours" in benches and flags.memory:
        time_validation(benches["ours"].student, flags, device)
    print_memory(flags, kinds, device)


if __name__ == "__main__":
    run(main)
