"""One row of benchmarks/gpu.py, in a process of its own: what running out of memory, or a compiler, ends is this row alone.

    python benchmarks/gpu_row.py --dataset ACDC --way compile --precision bf16

The loop's own steps on images of nested balls, after LEARNT steps of pre-training, so that pseudo labels are such as they are in training:
the host, which filters them, would take longer for noise. What was measured is printed part by part, JSON behind a mark, so that a row
that is stopped has told what it knew.
"""

import json
import statistics
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

import numpy as np
import torch
from torch.autograd import DeviceType

from benchmarks.counts import runner
from benchmarks.two_ways import seconds
from datasets.registry import find_dataset
from datasets.run_settings import make_settings
from evaluation.validation import validate
from training.accelerate import Accelerate, accelerated, check_accelerate
from training.device import autocast_type, choose_device, set_deterministic
from utils.case import Case
from utils.cli import parse, run
from utils.ema import copy_state
from utils.errors import UserError

MARK = "measured "
GROUP, WARM, PROFILED = (
    5,
    4,
    3,
)  # steps timed together, left out before (graphs are recorded in them), and looked at for kernels
LEARNT = 40  # steps of pre-training before anything is timed
LONGEST = 15.0  # seconds after which no group begins
CASES = {
    2: (10, 216, 256),
    3: (180, 140, 88),
}  # voxels of a case to validate on, the latter at patches of 112x112x80
WAITED = "called a synchronizing"
Precision = Literal["float32", "TF32", "bf16", "fp16"]
Way = Literal["eager", "compile", "graph"]


@dataclass(frozen=True)
class Row:
    dataset: Literal["ACDC", "LA"] = "ACDC"
    """Data set whose published numbers a step has."""
    method: str = "edge_guided"
    """Method."""
    way: Way = "eager"
    """How networks are called: as they are, or as --accelerate has it."""
    precision: Precision = "float32"
    """float32 throughout, convolutions in TF32, or autocast."""
    deterministic: bool = True
    """Deterministic algorithms, which training has by default."""
    kernels: bool = False
    """Also name the kernels that take longest."""


@dataclass(frozen=True)
class Flags(Row):
    device: Literal["cuda", "cpu"] = "cuda"
    """cpu tries out all but what CUDA alone has."""
    steps: int = 20
    """Timed steps, in groups of 5."""
    patch_size: tuple[int, ...] = ()
    """Size of the network's input; default: as published."""
    batch_size: int = 0
    """Images a step, half of them labelled; 0: as published."""
    about: bool = False
    """Say what device it is and what --amp auto takes there, and nothing else."""


def main(argv=None) -> int:
    flags = parse(Flags, argv, description=__doc__)
    parts = iter([about(choose_device(flags.device))]) if flags.about else measured(flags)
    try:
        for part in parts:
            print(MARK + json.dumps(part), flush=True)
    except Exception as error:  # of a compiler or a driver it may be any; the other rows go on
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        print(
            MARK + json.dumps({"failed": kind + next(iter(str(error).splitlines()), "")}),
            flush=True,
        )
        return 1
    return 0


def about(device: torch.device) -> dict:
    auto = {torch.bfloat16: "bf16", torch.float16: "fp16", None: "float32"}[
        autocast_type("auto", device)
    ]
    if device.type != "cuda":
        return {"card": f"no card: {device}, {torch.get_num_threads()} threads", "auto": auto}
    card = torch.cuda.get_device_properties(device)
    memory, units = (
        f"{card.total_memory / 2**30:.1f} GiB",
        f"{card.multi_processor_count} multiprocessors",
    )
    return {
        "card": f"{card.name}, compute capability {card.major}.{card.minor}, {units}, {memory}",
        "auto": auto,
    }


def measured(flags: Flags) -> Iterator[dict]:
    """What a row measures, the most important first. Raises whatever the row ends with."""
    device, dataset, how = (
        choose_device(flags.device),
        find_dataset(flags.dataset),
        "off" if flags.way == "eager" else flags.way,
    )
    if flags.precision == "TF32" and device.type != "cuda":
        raise UserError("TF32: CUDA's alone")
    amp = flags.precision if flags.precision in ("bf16", "fp16") else "off"
    check_accelerate(how, device, recompute=False, amp=autocast_type(amp, device))
    numbers = {
        "method": flags.method,
        "deterministic": flags.deterministic,
        "tf32": flags.precision != "float32",
        "amp": amp,
    }
    numbers |= {"patch_size": flags.patch_size} if flags.patch_size else {}
    numbers |= (
        {"batch_size": flags.batch_size, "labeled_bs": flags.batch_size // 2}
        if flags.batch_size
        else {}
    )
    settings = make_settings(dataset, **numbers)
    set_deterministic(settings.deterministic, settings.tf32)

    def prepared(stage: int, way: Accelerate) -> tuple:
        """As `_StageRunner.run` prepares it; batches come from pinned memory there."""
        loop, batch = runner(dataset, device, stage, **numbers)
        loop.precision.prepare(loop.stage, loop.setup.optimizers.values())
        loop.compiled = accelerated(loop.stage, way)
        batch = balls(batch, dataset.info.classes)
        return loop, {
            key: x.pin_memory() for key, x in batch.items()
        } if device.type == "cuda" else batch

    with heard("default", nondeterministic) as said:
        pre, batch = prepared(0, "off")
        first = 2 * seconds(pre, batch, device, 2)
        seconds(pre, batch, device, LEARNT)
        if flags.way == "eager":
            yield {"pre": timed(pre, batch, device, flags.steps, first)}
        loop, batch = prepared(-1, how)
        for net in loop.stage.networks.values():
            copy_state(net, pre.stage.networks[pre.stage.selected])
        del pre
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        yield {"self": timed(loop, batch, device, flags.steps), **peak(device)}
        if flags.way == "eager":
            yield {"case": seconds_a_case(loop, dataset, settings, device)}
        if device.type == "cuda":
            yield {"waits": waits(lambda: loop._train_step(batch))}
        if flags.kernels:
            yield {"kernels": kernels(lambda: loop._train_step(batch), device)}
    yield {"without_deterministic": said}


def balls(batch: dict, classes: int) -> dict:
    """A batch of that size, of a ball of each class in that of the class before, at places of their own, under noise."""
    image, label = batch["image"], batch["label"]
    shape, draw = image.shape[2:], np.random.default_rng(0)
    images, labels = [], []
    for _ in image:
        centre = [draw.uniform(0.35, 0.65) * side for side in shape]
        grid = np.ogrid[tuple(slice(side) for side in shape)]
        distance = np.sqrt(
            sum(((x - c) / side) ** 2 for x, c, side in zip(grid, centre, shape, strict=True))
        )
        found = sum(
            (distance < 0.3 * (classes - k) / (classes - 1)).astype(np.uint8)
            for k in range(1, classes)
        )
        images.append(found / (classes - 1) + draw.normal(0, 0.1, shape))
        labels.append(found)
    images = np.repeat(np.stack(images)[:, None], image.shape[1], axis=1)
    return {
        "image": torch.from_numpy(images.astype(np.float32)),
        "label": torch.from_numpy(np.stack(labels[: len(label)])),
    }


def timed(loop, batch: dict, device: torch.device, steps: int, first: float | None = None) -> dict:
    """Milliseconds of a step (median of groups), seconds of the first two, which compile and try out, unless they were made."""
    first = 2 * seconds(loop, batch, device, 2) if first is None else first
    seconds(loop, batch, device, WARM)
    taken, began = [], time.monotonic()
    while len(taken) < -(-steps // GROUP) and (not taken or time.monotonic() - began < LONGEST):
        taken.append(seconds(loop, batch, device, min(GROUP, steps)))
    return {"ms": 1000 * statistics.median(taken), "first": first}


def peak(device: torch.device) -> dict:
    """GiB that tensors took at most so far, and what torch kept for them."""
    if device.type != "cuda":
        return {}
    return {
        "allocated": torch.cuda.max_memory_allocated() / 2**30,
        "reserved": torch.cuda.max_memory_reserved() / 2**30,
    }


def seconds_a_case(loop, dataset, settings, device: torch.device) -> float:
    """Of a validation without distances; random numbers of the size of a case."""
    shape = CASES[dataset.info.dims]
    if dataset.info.dims == 3:  # as many windows whatever the patch
        sides = zip(shape, settings.patch_size, dataset.numbers["patch_size"], strict=True)
        shape = tuple(round(side * patch / published) for side, patch, published in sides)
    image = np.random.default_rng(0).random((dataset.info.channels, *shape), np.float32)
    case = Case("random", image, np.zeros(shape, np.uint8))
    predict = dataset.predictor(settings.patch_size, getattr(settings, "val_stride", ()), device)
    net = loop.stage.networks[loop.stage.selected]
    for _ in range(2):
        began = time.perf_counter()
        with loop.precision.autocast():
            validate(
                net,
                lambda: False,
                [case],
                predict.classes,
                dataset.info.class_names,
                distances=False,
            )  # reads its counts: waits
        took = time.perf_counter() - began
    return took


@contextmanager
def heard(
    often: Literal["default", "always"], note: Callable[[str], str | None]
) -> Iterator[list[str]]:
    """What `note` makes of the text of each warning within the context, if anything; `default`: of one from each line of code, so that
    steps are not slowed down."""
    said = []
    with warnings.catch_warnings():
        warnings.simplefilter(often)
        warnings.showwarning = lambda message, *rest: said.append(note(str(message)))
        yield said
    said[:] = dict.fromkeys(filter(None, said))


def nondeterministic(warning: str) -> str | None:
    """The operation of which a warning says that it has no deterministic form."""
    name, found, _ = warning.partition(" does not have a deterministic")
    return name if found else None


def place(frames: Iterable[traceback.FrameSummary]) -> str:
    """The innermost of the frames that is the repository's, benchmarks apart, or else the innermost of all."""
    frames = list(frames)
    roots = [
        folder for folder in REPOSITORY.iterdir() if folder.name not in ("benchmarks", ".venv")
    ]
    ours = [
        frame for frame in frames if any(root in Path(frame.filename).parents for root in roots)
    ]
    frame = (ours or frames)[-1]
    return f"{Path(frame.filename).relative_to(REPOSITORY).as_posix() if ours else frame.filename}:{frame.lineno}"


def waits(step: Callable[[], object], steps: int = 2) -> list[str]:
    """Places at which steps make the host wait for the device, each once.

    torch counts copies and reads of scalars that wait; neither the event that pseudo labels come with, nor `torch.cuda.synchronize`.
    """
    try:
        torch.cuda.set_sync_debug_mode("error")
        for _ in range(steps):
            step()
        return []
    except Exception as error:  # a compiler wraps it in its own
        if WAITED not in str(error):
            raise
        found = [place(traceback.extract_tb(error.__traceback__))]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    try:  # an error hides all waits behind it
        torch.cuda.set_sync_debug_mode("warn")
        with heard(
            "always",
            lambda warning: place(traceback.extract_stack()) if WAITED in warning else None,
        ) as said:
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return list(dict.fromkeys(found + said))


def kernels(step: Callable[[], object], device: torch.device) -> dict:
    """What takes the device longest in a step; on the CPU torch's operations in place of kernels."""
    profiler, cuda = torch.profiler, device.type == "cuda"
    activities = [
        profiler.ProfilerActivity.CPU,
        *([profiler.ProfilerActivity.CUDA] if cuda else []),
    ]
    with profiler.profile(activities=activities) as profile:
        for _ in range(PROFILED):
            step()
        if cuda:
            torch.cuda.synchronize()
    return ranking(profile.key_averages(), DeviceType.CUDA if cuda else DeviceType.CPU, PROFILED)


def ranking(averages: Iterable, where: DeviceType, steps: int, top: int = 15) -> dict:
    """Launches a step, and the names with the most time: calls a step, milliseconds a step, share of all."""
    clock = "self_device_time_total" if where == DeviceType.CUDA else "self_cpu_time_total"
    found = [
        (getattr(a, clock), a.count, a.key)
        for a in averages
        if a.device_type == where and not a.is_user_annotation
    ]
    whole = sum(time for time, _, _ in found) or 1
    ranked = sorted(found, reverse=True)[:top]
    return {
        "launches": sum(count for _, count, _ in found) / steps,
        "top": [
            (name, count / steps, time / 1000 / steps, time / whole) for time, count, name in ranked
        ],
    }


if __name__ == "__main__":
    run(main)
