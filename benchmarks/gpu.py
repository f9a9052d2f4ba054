"""Measure training on a GPU in ten minutes: eager, compiled and as graphs, in four precisions.

    sh benchmarks/gpu.sh
    python benchmarks/gpu.py --datasets LA --ways eager graph --minutes 20
    python benchmarks/gpu.py --device cpu --datasets ACDC --patch_size 80 80 --batch_size 8

Every row runs in a separate process, which may fail, and is one line: milliseconds of a
self-training and of a pre-training step, seconds of the first two, peak memory, seconds to validate
a case, hours of the published protocol, and the code that made the host wait.
"""

import json
import math
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, get_args

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks.gpu_row import MARK, Precision, Row, Way
from datasets.base import data_root
from datasets.registry import find_dataset
from datasets.resolve import resolve
from utils.cli import parse, run
from utils.errors import UserError
from utils.provenance import git_commit
from utils.workers import terminated

PROGRAM = Path(__file__).with_name("gpu_row.py")
NAME = 48  # width of the column with a row's name
LEAST = 5.0  # no row begins if fewer seconds remain
LONGEST_NAME = 150  # characters of a kernel's name
COLUMNS = {
    "self ms": 9,
    "pre ms": 9,
    "first s": 9,
    "GiB": 7,
    "kept": 7,
    "case s": 8,
    "hours": 8,
}
NOTES = """
self, pre ms: a step of self-training and of pre-training, median
first s: the first two steps, which compile and try out
GiB, kept: the most that tensors took in self-training, and that torch kept for them
case s: validating one case, without distances
hours: iterations and validations of the published protocol at these times. compile and graph take
    pre-training and validation from eager. >: at least, because a part is unknown. Not included:
    batches, HD95 and ASD of every tenth validation, checkpoints
Images are balls that the networks have learnt for some steps, so the host filters pseudo labels
like those of training."""

# What a row's program measured, as its JSON has it.
Measured = dict[str, Any]


@dataclass(frozen=True)
class Flags:
    """Flags of gpu.py."""

    datasets: tuple[Literal["ACDC", "LA"], ...] = ("ACDC", "LA")
    """Data sets, with their published sizes."""
    methods: tuple[str, ...] = ("edge_guided", "bcp")
    """Methods; the first in all ways, the others only in the precision of --amp auto."""
    ways: tuple[Way, ...] = get_args(Way)
    """How networks are called: eager, or as --accelerate compile or graph, both measured only
    in float32 and in the precision of --amp auto."""
    precisions: tuple[Precision, ...] = get_args(Precision)
    """Precisions of the steps."""
    minutes: float = 9.0
    """Rows that have not begun by then are omitted."""
    row_minutes: float = 3.0
    """Time limit of a row."""
    device: Literal["cuda", "cpu"] = "cuda"
    """cpu tries out everything except what only CUDA has."""
    steps: int = 20
    """Timed steps of a row."""
    patch_size: tuple[int, ...] = ()
    """Size of the networks' input. Default: as published."""
    batch_size: int = 0
    """Images per step, half of them labelled; 0: as published."""


@dataclass(frozen=True)
class Protocol:
    """The published protocol of a method on a data set, with the validations of both stages."""

    patch_size: tuple[int, ...]
    batch_size: int
    pre_iterations: int
    max_iterations: int
    validations: int
    cases: int  # of one validation


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the rows one after the other, and print each as soon as it is measured."""
    start = time.monotonic()
    flags = parse(Flags, argv, description=__doc__)
    check(flags)
    deadline = start + 60 * flags.minutes
    for line in machine_lines():
        print(line)
    with terminated(then="what is printed above is what was measured"):
        device = ask(["--about", "--device", flags.device], 60)
        if "failed" in device:
            raise UserError(f"--device {flags.device}: {device['failed']}; nothing was measured")
        print(f"{device['card']}; --amp auto: {device['auto']}")
        for dataset in flags.datasets:
            print(protocol_line(dataset, flags))
        head = "".join(f"{name:>{width}}" for name, width in COLUMNS.items())
        print(f"\n{'':<{NAME}}{head}  waits", flush=True)
        known: dict[Row, Measured] = {}
        for row in rows(flags, device["auto"]):
            measured = measure(row, flags, deadline=deadline)
            known[replace(row, kernels=False)] = measured
            for line in row_lines(row, measured, known=known, device=flags.device):
                print(line, flush=True)
    print(NOTES)
    if flags.device != "cuda":
        print(
            "Not CUDA: peak memory, waits, TF32 and graphs were not measured; "
            "kernels are torch's operations, times those of a CPU."
        )


def check(flags: Flags) -> None:
    """Raise UserError for flags that cannot be measured."""
    if flags.device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "--device cuda: torch finds no CUDA here; "
            "--device cpu with a small --patch_size tries the program out"
        )
    for dataset in flags.datasets:
        dims = find_dataset(dataset).info.dims
        if flags.patch_size and len(flags.patch_size) != dims:
            raise UserError(
                f"--patch_size: {dataset} has {dims} sides; "
                "give as many, and name its data set with --datasets"
            )
    for name in ("datasets", "methods", "ways", "precisions"):
        if not getattr(flags, name):
            raise UserError(f"--{name}: name at least one")
    if flags.steps < 1:
        raise UserError(f"--steps {flags.steps}: must be at least 1")


def machine_lines() -> Iterator[str]:
    """Yield lines about the machine.

    Other programs are asked about the GPU, because torch would keep some of its memory.
    """
    yield (
        f"{time.strftime('%Y-%m-%d %H:%M')}, commit {git_commit() or 'unknown'}, "
        f"{platform.platform()}, {os.cpu_count()} processors"
    )
    yield (
        f"Python {platform.python_version()}, torch {torch.__version__}, "
        f"CUDA {torch.version.cuda or 'none'}, cuDNN {torch.backends.cudnn.version() or 'none'}"
    )
    if shutil.which("nvidia-smi"):
        query = "index,name,driver_version,memory.total,memory.used,utilization.gpu"
        command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv"]
        yield from subprocess.run(command, capture_output=True, text=True).stdout.splitlines()


def rows(flags: Flags, auto: Precision) -> list[Row]:
    """Return the rows to measure, the most informative first; `auto`: precision of --amp auto."""
    first, *others = flags.methods
    best = Row(method=first, precision=auto)
    candidates = [replace(best, kernels=True)]
    candidates += [replace(best, precision=other) for other in flags.precisions if other != auto]
    candidates += [replace(best, method=other) for other in others]
    candidates.append(replace(best, deterministic=False))
    for precision in dict.fromkeys((auto, "float32")):
        candidates.append(replace(best, precision=precision, way="compile"))
        candidates.append(replace(best, precision=precision, way="graph"))
    chosen: list[Row] = []
    for row in candidates:
        if row.way in flags.ways and row.precision in flags.precisions:
            chosen += [replace(row, dataset=dataset) for dataset in flags.datasets]
    return chosen


def measure(row: Row, flags: Flags, deadline: float) -> Measured:
    """Measure a row within its time limit, unless the time until `deadline` is too short."""
    seconds = min(deadline - time.monotonic(), 60 * flags.row_minutes)
    if seconds < LEAST:
        return {"failed": "not run: no time left"}
    return ask(row_flags(row, flags), seconds)


def row_flags(row: Row, flags: Flags) -> list[str]:
    """Return the flags of the row's program."""
    arguments = ["--device", flags.device, "--steps", str(flags.steps)]
    arguments += ["--batch_size", str(flags.batch_size)]
    if flags.patch_size:
        arguments += ["--patch_size", *map(str, flags.patch_size)]
    for name, value in asdict(row).items():
        if value is True:
            arguments.append(f"--{name}")
        elif value is False:
            arguments.append(f"--no_{name}")
        else:
            arguments += [f"--{name}", value]
    return arguments


def ask(flags: Sequence[str], seconds: float) -> Measured:
    """Run a row's program for at most so many seconds and return what it measured.

    "failed" has a line if the program did not reach its end.
    """
    process = subprocess.Popen(
        [sys.executable, str(PROGRAM), *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    failure: Measured = {}
    try:
        output, errors = process.communicate(timeout=seconds)
        if process.returncode:
            last = (errors.strip().splitlines() or ["no message"])[-1]
            failure["failed"] = f"ended with status {process.returncode}: {last}"
    except subprocess.TimeoutExpired:
        failure["failed"] = f"stopped after {seconds:.0f} s"
        kill_group(process)
        output, _ = process.communicate()
    finally:
        kill_group(process)
    return failure | parts_in(output)


def parts_in(output: str) -> Measured:
    """Merge the parts that a row's program printed."""
    measured: Measured = {}
    for line in output.splitlines():
        if line.startswith(MARK):
            measured |= json.loads(line.removeprefix(MARK))
    return measured


def kill_group(process: subprocess.Popen[str]) -> None:
    """Kill the process and all that it started, such as compilers."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def row_lines(
    row: Row, measured: Measured, known: Mapping[Row, Measured], device: str
) -> Iterator[str]:
    """Yield the lines of a row: one, and more if there are kernels.

    `known`: all measured rows by the row without its kernels.
    """
    name = f"{row.dataset} {row.method} {row.way} {row.precision}"
    if not row.deterministic:
        name += " no_deterministic"
    if "self" not in measured:
        yield f"{name:<{NAME}}  {measured['failed']}"
        return
    eager = known.get(replace(row, way="eager", kernels=False), {})
    values = [
        number_text(measured["self"]["ms"], digits=1),
        number_text(measured.get("pre", {}).get("ms"), digits=1),
        number_text(measured["self"]["first"], digits=1),
        number_text(measured.get("allocated"), digits=2),
        number_text(measured.get("reserved"), digits=2),
        number_text(measured.get("case"), digits=2),
        hours(measured, eager, row=row),
    ]
    cells = [f"{text:>{width}}" for text, width in zip(values, COLUMNS.values(), strict=True)]
    yield f"{name:<{NAME}}{''.join(cells)}  {'; '.join(row_notes(measured))}"
    if "kernels" in measured:
        yield from kernel_lines(measured["kernels"], device)


def row_notes(measured: Measured) -> list[str]:
    """Return the notes at the end of a row's line: waits, operations, and a failure."""
    notes = ["-"]
    if "waits" in measured:
        notes = [", ".join(measured["waits"]) or "none"]
    if measured.get("without_deterministic"):
        notes.append(f"no deterministic form: {', '.join(measured['without_deterministic'])}")
    if "failed" in measured:
        notes.append(f"then {measured['failed']}")
    return notes


def kernel_lines(ranking: Measured, device: str) -> Iterator[str]:
    """Yield a line about the launches of a step, and one for each kernel with most time."""
    kind = "operations of torch a step"
    if device == "cuda":
        kind = "launches a step (kernels, copies, fills)"
    yield (
        f"    {ranking['launches']:.0f} {kind}; "
        "those with most time: calls a step, ms a step, share"
    )
    for kernel, calls, milliseconds, share in ranking["top"]:
        if len(kernel) > LONGEST_NAME:
            kernel = f"{kernel[: LONGEST_NAME - 3]}..."
        yield f"    {calls:>8.1f} {milliseconds:>9.3f} {share:>6.1%}  {kernel}"


def number_text(value: float | None, digits: int) -> str:
    """Return a number as text, "-" if it is unknown."""
    if value is None:
        return "-"
    return f"{value:.{digits}f}"


def protocol(dataset: str, method: str) -> Protocol:
    """Return the published protocol of a method on a data set."""
    spec = find_dataset(dataset)
    settings = SimpleNamespace(**resolve(spec, method=method).flat())
    split, _ = spec.selection(settings.select)
    cases = spec.info.read_list(data_root(dataset, None), spec.info.list_name(split))
    validations = 0
    for steps in (settings.pre_iterations, settings.max_iterations):
        validations += math.ceil(steps / settings.val_every)
    return Protocol(
        patch_size=settings.patch_size,
        batch_size=settings.batch_size,
        pre_iterations=settings.pre_iterations,
        max_iterations=settings.max_iterations,
        validations=validations,
        cases=len(cases),
    )


def protocol_line(dataset: str, flags: Flags) -> str:
    """Return a line about the sizes that are measured, and about the protocol."""
    published = protocol(dataset, flags.methods[0])
    size = "x".join(map(str, flags.patch_size or published.patch_size))
    return (
        f"{dataset}: {size}, batch {flags.batch_size or published.batch_size}; "
        f"protocol: {published.pre_iterations} + {published.max_iterations} iterations, "
        f"{published.validations} validations of {published.cases} cases"
    )


def hours(measured: Measured, eager: Measured, row: Row) -> str:
    """Return the hours of the published protocol at the row's times.

    A time that the row lacks is taken from `eager`, the eager row of its precision. If neither has
    it, the text begins with ">".
    """
    published = protocol(row.dataset, row.method)
    pre = measured.get("pre") or eager.get("pre")
    case = measured.get("case") or eager.get("case")
    seconds = published.max_iterations * measured["self"]["ms"] / 1000
    if pre:
        seconds += published.pre_iterations * pre["ms"] / 1000
    if case:
        seconds += published.validations * published.cases * case
    text = f"{seconds / 3600:.2f}"
    if pre and case:
        return text
    return f">{text}"


if __name__ == "__main__":
    run(main)
