"""Measure one row of benchmarks/gpu.py in a separate process, which may run out of memory.

    python benchmarks/gpu_row.py --dataset ACDC --way compile --precision bf16

The loop's own steps on images of nested balls, after LEARNT steps of pre-training, so that pseudo
labels look like those of training: the host, which filters them, would take longer for noise. Each
part is printed as soon as it is measured, JSON behind a mark, so that a row that is stopped has
printed the parts before.
"""

import json
import math
import statistics
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

import numpy as np
import torch
from torch import Tensor
from torch.autograd import DeviceType  # pyright: ignore[reportPrivateImportUsage]

from benchmarks.counts import runner
from benchmarks.two_ways import seconds_per_step
from datasets.base import DatasetSpec
from datasets.registry import find_dataset
from datasets.resolve import resolve
from evaluation.validation import validate
from training.accelerate import Accelerate, accelerated, check_accelerate
from training.device import autocast_type, choose_device, set_deterministic
from training.loop import _StageRunner
from utils.case import Case
from utils.cli import parse, run
from utils.ema import copy_state
from utils.errors import UserError

MARK = "measured "
GROUP = 5  # steps that are timed together
WARM = 4  # steps before the timed ones, in which graphs are recorded
PROFILED = 3  # steps whose kernels are counted
LEARNT = 40  # steps of pre-training before anything is timed
LONGEST = 15.0  # seconds after which no group begins
# voxels of a case to validate; volumes at patches of 112x112x80
CASES = {2: (10, 216, 256), 3: (180, 140, 88)}
WAITED = "called a synchronizing"
NO_DETERMINISTIC = " does not have a deterministic"
Precision = Literal["float32", "TF32", "bf16", "fp16"]
Way = Literal["eager", "compile", "graph"]
AMP_NAMES = {torch.bfloat16: "bf16", torch.float16: "fp16", None: "float32"}


@dataclass(frozen=True)
class Row:
    """What a row measures."""

    dataset: Literal["ACDC", "LA"] = "ACDC"
    """Data set, for its published numbers."""
    method: str = "edge_guided"
    """Method."""
    way: Way = "eager"
    """How networks are called: eager, or as --accelerate compile or graph."""
    precision: Precision = "float32"
    """float32 throughout, convolutions in TF32, or autocast."""
    deterministic: bool = True
    """Deterministic algorithms, as in training by default."""
    kernels: bool = False
    """Also name the kernels that take longest."""


@dataclass(frozen=True)
class Flags(Row):
    """Flags of gpu_row.py."""

    device: Literal["cuda", "cpu"] = "cuda"
    """cpu tries out everything except what only CUDA has."""
    steps: int = 20
    """Timed steps, in groups of 5."""
    patch_size: tuple[int, ...] = ()
    """Size of the network's input. Default: as published."""
    batch_size: int = 0
    """Images per step, half of them labelled; 0: as published."""
    about: bool = False
    """Only print the device and the precision of --amp auto there."""


def main(argv: Sequence[str] | None = None) -> int:
    """Print the parts of a row as they are measured; return the exit status."""
    flags = parse(Flags, argv, description=__doc__)
    parts = measured(flags)
    if flags.about:
        parts = iter([about(choose_device(flags.device))])
    try:
        for part in parts:
            print(MARK + json.dumps(part), flush=True)
    except Exception as error:  # compilers and drivers raise any type; the other rows continue
        failure = (str(error).splitlines() or [""])[0]
        if not isinstance(error, UserError):
            failure = f"{type(error).__name__}: {failure}"
        print(MARK + json.dumps({"failed": failure}), flush=True)
        return 1
    return 0


def about(device: torch.device) -> dict[str, str]:
    """Return a line about the device, and the precision of --amp auto there."""
    auto = AMP_NAMES[autocast_type("auto", device)]
    if device.type != "cuda":
        return {"card": f"no card: {device}, {torch.get_num_threads()} threads", "auto": auto}
    card = torch.cuda.get_device_properties(device)
    line = (
        f"{card.name}, compute capability {card.major}.{card.minor}, "
        f"{card.multi_processor_count} multiprocessors, {card.total_memory / 2**30:.1f} GiB"
    )
    return {"card": line, "auto": auto}


def run_numbers(flags: Flags) -> dict[str, Any]:
    """Return the settings of the row's steps that are not the published ones."""
    numbers: dict[str, Any] = {
        "method": flags.method,
        "deterministic": flags.deterministic,
        "tf32": flags.precision != "float32",
        "amp": "off",
    }
    if flags.precision in ("bf16", "fp16"):
        numbers["amp"] = flags.precision
    if flags.patch_size:
        numbers["patch_size"] = flags.patch_size
    if flags.batch_size:
        numbers["batch_size"] = flags.batch_size
        numbers["labeled_bs"] = flags.batch_size // 2
    return numbers


def prepared(
    dataset: DatasetSpec,
    device: torch.device,
    stage: int,
    way: Accelerate,
    numbers: dict[str, Any],
) -> tuple[_StageRunner, dict[str, Tensor]]:
    """Return a stage as `_StageRunner.run` prepares it, and a batch in pinned memory."""
    loop, batch = runner(dataset, device, stage, **numbers)
    loop.precision.prepare(loop.stage, loop.setup.optimizers.values())
    loop.compiled = accelerated(loop.stage, way)
    batch = balls(batch, dataset.info.classes)
    if device.type == "cuda":
        batch = {key: tensor.pin_memory() for key, tensor in batch.items()}
    return loop, batch


def measured(flags: Flags) -> Iterator[dict[str, Any]]:
    """Yield the parts of a row, the most important first. Raises whatever ends the row."""
    device = choose_device(flags.device)
    dataset = find_dataset(flags.dataset)
    way: Accelerate = "off"
    if flags.way != "eager":
        way = flags.way
    if flags.precision == "TF32" and device.type != "cuda":
        raise UserError("TF32: only on CUDA")
    numbers = run_numbers(flags)
    check_accelerate(way, device, recompute=False, amp=autocast_type(numbers["amp"], device))
    config = resolve(dataset, method=numbers["method"], explicit=numbers)
    settings = SimpleNamespace(**config.flat())
    set_deterministic(settings.deterministic, settings.tf32)
    with noted_warnings("default", nondeterministic) as operations:
        pre, batch = prepared(dataset, device, 0, way="off", numbers=numbers)
        first = 2 * seconds_per_step(pre, batch, device, steps=2)
        seconds_per_step(pre, batch, device, steps=LEARNT)
        if flags.way == "eager":
            yield {"pre": timed(pre, batch, device, steps=flags.steps, first=first)}
        loop, batch = prepared(dataset, device, -1, way=way, numbers=numbers)
        for net in loop.stage.networks.values():
            copy_state(net, pre.stage.networks[pre.stage.selected])
        del pre
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        yield {"self": timed(loop, batch, device, steps=flags.steps), **peak(device)}
        if flags.way == "eager":
            stride = getattr(settings, "val_stride", ())
            case = seconds_per_case(loop, dataset, settings.patch_size, stride, device=device)
            yield {"case": case}
        if device.type == "cuda":
            yield {"waits": waits(lambda: loop._train_step(batch))}
        if flags.kernels:
            yield {"kernels": kernels(lambda: loop._train_step(batch), device)}
    yield {"without_deterministic": operations}


def balls(batch: dict[str, Tensor], classes: int) -> dict[str, Tensor]:
    """Return a batch of the same size that shows nested balls, one per class, under noise."""
    image = batch["image"]
    shape = image.shape[2:]
    draw = np.random.default_rng(0)
    images: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    for _ in image:
        centre = [draw.uniform(0.35, 0.65) * side for side in shape]
        label = ball(tuple(shape), centre, classes=classes)
        images.append(label / (classes - 1) + draw.normal(0, 0.1, shape))
        labels.append(label)
    channels = np.repeat(np.stack(images)[:, None], image.shape[1], axis=1)
    return {
        "image": torch.from_numpy(channels.astype(np.float32)),
        "label": torch.from_numpy(np.stack(labels[: len(batch["label"])])),
    }


def ball(shape: tuple[int, ...], centre: Sequence[float], classes: int) -> np.ndarray:
    """Return a label (uint8) of nested balls around `centre`, the last class innermost."""
    grids = np.ogrid[tuple(slice(side) for side in shape)]
    squares = [
        ((grid - middle) / side) ** 2
        for grid, middle, side in zip(grids, centre, shape, strict=True)
    ]
    distance = np.sqrt(sum(squares))
    label = np.zeros(shape, np.uint8)
    for number in range(1, classes):
        label += distance < 0.3 * (classes - number) / (classes - 1)
    return label


def timed(
    loop: _StageRunner,
    batch: dict[str, Tensor],
    device: torch.device,
    steps: int,
    first: float | None = None,
) -> dict[str, float]:
    """Return the milliseconds of a step (median of groups), and the seconds of the first two steps.

    The first two compile and try out; they are made here unless `first` has their seconds.
    """
    if first is None:
        first = 2 * seconds_per_step(loop, batch, device, steps=2)
    seconds_per_step(loop, batch, device, steps=WARM)
    groups: list[float] = []
    start = time.monotonic()
    for _ in range(math.ceil(steps / GROUP)):
        if groups and time.monotonic() - start >= LONGEST:
            break
        groups.append(seconds_per_step(loop, batch, device, steps=min(GROUP, steps)))
    return {"ms": 1000 * statistics.median(groups), "first": first}


def peak(device: torch.device) -> dict[str, float]:
    """Return the most GiB that tensors took so far, and that torch kept for them."""
    if device.type != "cuda":
        return {}
    return {
        "allocated": torch.cuda.max_memory_allocated() / 2**30,
        "reserved": torch.cuda.max_memory_reserved() / 2**30,
    }


def seconds_per_case(
    loop: _StageRunner,
    dataset: DatasetSpec,
    patch_size: Sequence[int],
    stride: Sequence[int],
    device: torch.device,
) -> float:
    """Return the seconds of validating a random case without distances; the second try counts."""
    shape = CASES[dataset.info.dims]
    if dataset.info.dims == 3:  # the same number of windows for any patch
        sides = zip(shape, patch_size, dataset.defaults["patch_size"], strict=True)
        shape = tuple(round(side * patch / published) for side, patch, published in sides)
    image = np.random.default_rng(0).random((dataset.info.channels, *shape), np.float32)
    case = Case("random", image, np.zeros(shape, np.uint8))
    predict = dataset.predictor(patch_size, stride, device).classes
    net = loop.stage.networks[loop.stage.selected]
    names = dataset.info.class_names
    elapsed = 0.0
    for _ in range(2):
        start = time.perf_counter()
        with loop.precision.autocast():  # validate reads its counts, so it waits for the device
            validate(net, lambda: False, [case], predict, names, distances=False)
        elapsed = time.perf_counter() - start
    return elapsed


@contextmanager
def noted_warnings(
    often: Literal["default", "always"], note: Callable[[str], str | None]
) -> Iterator[list[str]]:
    """Collect, once each, the notes that `note` makes of the warnings within the context.

    `often`: with "default" only the first warning of each line of code counts, so that steps are
    not slowed down. The list is complete after the context.
    """
    notes: list[str] = []

    def collect(text: object, *rest: object) -> None:
        noted = note(str(text))
        if noted and noted not in notes:
            notes.append(noted)

    with warnings.catch_warnings():
        warnings.simplefilter(often)
        warnings.showwarning = collect
        yield notes


def nondeterministic(warning: str) -> str | None:
    """Return the operation that has no deterministic form according to a warning of torch."""
    name, separator, _ = warning.partition(NO_DETERMINISTIC)
    if separator:
        return name
    return None


def place(frames: Iterable[traceback.FrameSummary]) -> str:
    """Return file and line of the innermost frame of the repository, except benchmarks.

    If there is none, those of the innermost frame of all.
    """
    innermost = ""
    chosen = ""
    for frame in frames:
        path = Path(frame.filename)
        innermost = f"{path}:{frame.lineno}"
        if path.is_relative_to(REPOSITORY):
            relative = path.relative_to(REPOSITORY)
            if relative.parts[0] not in ("benchmarks", ".venv"):
                chosen = f"{relative.as_posix()}:{frame.lineno}"
    return chosen or innermost


def waits(step: Callable[[], object], steps: int = 2) -> list[str]:
    """Return the places at which steps make the host wait for the device, each once.

    torch reports copies and reads of scalars that wait; it reports neither the event that pseudo
    labels come with, nor `torch.cuda.synchronize`.
    """
    try:
        torch.cuda.set_sync_debug_mode("error")
        for _ in range(steps):
            step()
        return []
    except Exception as error:  # a compiler wraps it in its own type
        if WAITED not in str(error):
            raise
        first = place(traceback.extract_tb(error.__traceback__))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    try:  # the error hides all waits after it
        torch.cuda.set_sync_debug_mode("warn")
        with noted_warnings("always", place_of_wait) as places:
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return list(dict.fromkeys([first, *places]))


def place_of_wait(warning: str) -> str | None:
    """Return the place in the stack at which torch warns of a wait; None for another warning."""
    if WAITED in warning:
        return place(traceback.extract_stack())
    return None


def kernels(step: Callable[[], object], device: torch.device) -> dict[str, Any]:
    """Return the ranking of the kernels of a step; on the CPU that of torch's operations."""
    profiler = torch.profiler
    activities = [profiler.ProfilerActivity.CPU]
    kind = DeviceType.CPU
    if device.type == "cuda":
        activities.append(profiler.ProfilerActivity.CUDA)
        kind = DeviceType.CUDA
    with profiler.profile(activities=activities) as profile:
        for _ in range(PROFILED):
            step()
        if device.type == "cuda":
            torch.cuda.synchronize()
    return ranking(profile.key_averages(), kind, steps=PROFILED)


def ranking(averages: Iterable[Any], kind: DeviceType, steps: int, top: int = 15) -> dict[str, Any]:
    """Return the launches of a step, and the names with the most time.

    Of each name: calls per step, milliseconds per step, share of all time. `kind`: the device whose
    time counts.
    """
    clock = "self_cpu_time_total"
    if kind == DeviceType.CUDA:
        clock = "self_device_time_total"
    events: list[tuple[float, int, str]] = []
    for average in averages:
        if average.device_type == kind and not average.is_user_annotation:
            events.append((getattr(average, clock), average.count, average.key))
    total = sum(microseconds for microseconds, _, _ in events) or 1
    ranked: list[tuple[str, float, float, float]] = []
    for microseconds, count, name in sorted(events, reverse=True)[:top]:
        milliseconds = microseconds / 1000 / steps
        ranked.append((name, count / steps, milliseconds, microseconds / total))
    return {"launches": sum(count for _, count, _ in events) / steps, "top": ranked}


if __name__ == "__main__":
    run(main)
