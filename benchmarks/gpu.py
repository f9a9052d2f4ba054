"""What training takes on a GPU, in under ten minutes: eager, compiled and as graphs, in float32, TF32, bf16 and fp16.

    sh benchmarks/gpu.sh
    python benchmarks/gpu.py --datasets LA --ways eager graph --minutes 20
    python benchmarks/gpu.py --device cpu --datasets ACDC --patch_size 80 80 --batch_size 8 --steps 2

Every row is a process of its own, which may fail, and is one line: milliseconds of a self-training and of a pre-training step, seconds of
the first two, peak memory, seconds that validating a case takes, hours of the published protocol, and what made the host wait.
"""

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, get_args

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks.gpu_row import MARK, Precision, Row, Way
from datasets.base import data_root
from datasets.registry import find_dataset
from datasets.run_settings import make_settings
from utils.cli import parse, run
from utils.errors import UserError
from utils.provenance import git_commit
from utils.workers import terminated

PROGRAM = Path(__file__).with_name("gpu_row.py")
NAME, LEAST = 48, 5.0  # letters of a row's name; seconds without which no row begins
COLUMNS = (
    ("self ms", 9),
    ("pre ms", 9),
    ("first s", 9),
    ("GiB", 7),
    ("kept", 7),
    ("case s", 8),
    ("hours", 8),
)
NOTES = """
self, pre ms: a step of self-training and of pre-training, median; first s: the first two steps, with what is compiled or tried out
GiB, kept: most that tensors took in self-training, and that torch kept for them; case s: validating one case, without distances
hours: iterations and validations of the published protocol at these times; compile and graph: pre-training and validation as eager;
    >: at least, for a part is not known. Batches, HD95 and ASD of each tenth validation, and checkpoints are not in it
Images are balls that the networks have learnt for some steps, so the host filters pseudo labels such as those of training."""


@dataclass(frozen=True)
class Flags:
    datasets: tuple[Literal["ACDC", "LA"], ...] = ("ACDC", "LA")
    """Data sets, with their published sizes."""
    methods: tuple[str, ...] = ("edge_guided", "bcp")
    """Methods; the first in all ways, the others as --amp auto has it."""
    ways: tuple[Way, ...] = get_args(Way)
    """How networks are called: as they are, or as --accelerate has it; the latter two in float32 and in what --amp auto takes."""
    precisions: tuple[Precision, ...] = get_args(Precision)
    """What steps compute in."""
    minutes: float = 9.0
    """All that is still to do then is left out."""
    row_minutes: float = 3.0
    """Longest that a row may take."""
    device: Literal["cuda", "cpu"] = "cuda"
    """cpu tries out all but what CUDA alone has."""
    steps: int = 20
    """Timed steps of a row."""
    patch_size: tuple[int, ...] = ()
    """Size of the networks' input; default: as published."""
    batch_size: int = 0
    """Images a step, half of them labelled; 0: as published."""


def main(argv: Sequence[str] | None = None) -> None:
    ends = time.monotonic()
    flags = parse(Flags, argv, description=__doc__)
    check(flags)
    ends += 60 * flags.minutes
    for line in machine():
        print(line)
    with terminated(then="what is printed above is what was measured"):
        device = ask(["--about", "--device", flags.device], 60)
        if "failed" in device:
            raise UserError(f"--device {flags.device}: {device['failed']}; nothing was measured")
        print(f"{device['card']}; --amp auto: {device['auto']}")
        for dataset in flags.datasets:
            print(sizes(dataset, flags))
        print(
            f"\n{'':<{NAME}}" + "".join(f"{name:>{width}}" for name, width in COLUMNS) + "  waits",
            flush=True,
        )
        known = {}
        for row in rows(flags, device["auto"]):
            left = min(ends - time.monotonic(), 60 * flags.row_minutes)
            found = (
                ask(words(row, flags), left)
                if left >= LEAST
                else {"failed": "not run: no time left"}
            )
            known[replace(row, kernels=False)] = found
            for line in told(row, found, known, flags.device):
                print(line, flush=True)
    print(NOTES)
    if flags.device != "cuda":
        print(
            "Not CUDA: nothing was seen of peak memory, waits, TF32 and graphs; kernels are torch's operations, times those of a CPU."
        )


def check(flags: Flags) -> None:
    """UserError for what cannot be measured."""
    if flags.device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "--device cuda: torch finds no CUDA here; --device cpu with a small --patch_size tries the program out"
        )
    for dataset in flags.datasets:
        dims = find_dataset(dataset).info.dims
        if flags.patch_size and len(flags.patch_size) != dims:
            raise UserError(
                f"--patch_size: {dataset} has {dims} sides; give as many, and name its data set with --datasets"
            )
    for name in ("datasets", "methods", "ways", "precisions"):
        if not getattr(flags, name):
            raise UserError(f"--{name}: name at least one")
    if flags.steps < 1:
        raise UserError(f"--steps {flags.steps}: must be at least 1")


def machine() -> Iterator[str]:
    """Lines about it; the card is asked for by other programs, since torch would keep some of its memory."""
    yield f"{time.strftime('%Y-%m-%d %H:%M')}, commit {git_commit() or 'unknown'}, {platform.platform()}, {os.cpu_count()} processors"
    yield (
        f"Python {platform.python_version()}, torch {torch.__version__}, CUDA {torch.version.cuda or 'none'}, "
        f"cuDNN {torch.backends.cudnn.version() or 'none'}"
    )
    if shutil.which("nvidia-smi"):
        query = [
            "nvidia-smi",
            "--query-gpu=index,name,driver_version,memory.total,memory.used,utilization.gpu",
            "--format=csv",
        ]
        yield from subprocess.run(query, capture_output=True, text=True).stdout.splitlines()


def rows(flags: Flags, auto: Precision) -> list[Row]:
    """What is asked for, what tells most first; `auto`: what --amp auto takes."""
    first, *others = flags.methods
    best = Row(method=first, precision=auto)
    every = [
        replace(best, kernels=True),
        *(replace(best, precision=other) for other in flags.precisions if other != auto),
    ]
    every += [
        *(replace(best, method=other) for other in others),
        replace(best, deterministic=False),
    ]
    every += [
        replace(best, precision=kind, way=way)
        for kind in dict.fromkeys((auto, "float32"))
        for way in ("compile", "graph")
    ]
    chosen = [row for row in every if row.way in flags.ways and row.precision in flags.precisions]
    return [replace(row, dataset=dataset) for row in chosen for dataset in flags.datasets]


def words(row: Row, flags: Flags) -> list[str]:
    """A row as flags of its program."""
    found = [
        "--device",
        flags.device,
        "--steps",
        str(flags.steps),
        "--batch_size",
        str(flags.batch_size),
    ]
    found += ["--patch_size", *map(str, flags.patch_size)] if flags.patch_size else []
    for name, value in asdict(row).items():
        found += (
            [f"--{'' if value else 'no_'}{name}"]
            if isinstance(value, bool)
            else [f"--{name}", value]
        )
    return found


def ask(flags: Sequence[str], seconds: float) -> dict:
    """What a row's program measured within so many seconds; "failed" in one line where it did not come to its end."""
    command = [sys.executable, str(PROGRAM), *flags]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    found = {}
    try:
        out, error = process.communicate(timeout=seconds)
        if process.returncode:
            last = (error.strip().splitlines() or ["it said nothing"])[-1]
            found["failed"] = f"ended with status {process.returncode}: {last}"
    except subprocess.TimeoutExpired:
        found["failed"] = f"stopped after {seconds:.0f} s"
        end(process)
        out, _ = process.communicate()
    finally:
        end(process)
    return found | heard_in(out)


def heard_in(out: str) -> dict:
    """The parts that a row's program printed, in one."""
    found = {}
    for line in out.splitlines():
        if line.startswith(MARK):
            found |= json.loads(line.removeprefix(MARK))
    return found


def end(process: subprocess.Popen) -> None:
    """The process and all that it started, compilers for one."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def told(row: Row, found: dict, known: dict[Row, dict], device: str) -> Iterator[str]:
    """Lines about a row, one unless there are kernels; `known` are those so far, without their kernels."""
    name = f"{row.dataset} {row.method} {row.way} {row.precision}{'' if row.deterministic else ' no_deterministic'}"
    if "self" not in found:
        yield f"{name:<{NAME}}  {found['failed']}"
        return
    figures = (found["self"]["ms"], found.get("pre", {}).get("ms"), found["self"]["first"])
    cells = [figure(value, 1) for value in figures] + [
        figure(found.get(key), 2) for key in ("allocated", "reserved", "case")
    ]
    ends = [", ".join(found["waits"]) or "none"] if "waits" in found else ["-"]
    ends += (
        [f"no deterministic form: {', '.join(found['without_deterministic'])}"]
        if found.get("without_deterministic")
        else []
    )
    ends += [f"then {found['failed']}"] if "failed" in found else []
    cells.append(hours(found, known.get(replace(row, way="eager", kernels=False), {}), row))
    yield (
        f"{name:<{NAME}}"
        + "".join(f"{cell:>{width}}" for cell, (_, width) in zip(cells, COLUMNS, strict=True))
        + "  "
        + "; ".join(ends)
    )
    if top := found.get("kernels"):
        kind = (
            "launches a step (kernels, copies, fills)"
            if device == "cuda"
            else "operations of torch a step"
        )
        yield f"    {top['launches']:.0f} {kind}; those with most time: calls a step, ms a step, share"
        for kernel, calls, milliseconds, share in top["top"]:
            yield f"    {calls:>8.1f} {milliseconds:>9.3f} {share:>6.1%}  {kernel if len(kernel) <= 150 else kernel[:147] + '...'}"


def figure(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def protocol(dataset: str, method: str) -> tuple:
    """The published settings of a data set, the validations of both stages, and the cases of each."""
    spec = find_dataset(dataset)
    s = make_settings(spec, method=method)
    names = spec.info.read_list(
        data_root(dataset, None), spec.info.list_name(spec.selection(s.select)[0])
    )
    return (
        s,
        sum(-(-steps // s.val_every) for steps in (s.pre_iterations, s.max_iterations)),
        len(names),
    )


def sizes(dataset: str, flags: Flags) -> str:
    s, validations, cases = protocol(dataset, flags.methods[0])
    size, batch = (
        "x".join(map(str, flags.patch_size or s.patch_size)),
        flags.batch_size or s.batch_size,
    )
    lengths = f"{s.pre_iterations} + {s.max_iterations} iterations, {validations} validations of {cases} cases"
    return f"{dataset}: {size}, batch {batch}; protocol: {lengths}"


def hours(found: dict, eager: dict, row: Row) -> str:
    """Of the published protocol, as the row's own times have it, or else those of the eager one of that precision."""
    s, validations, cases = protocol(row.dataset, row.method)
    pre, case = (found.get(key) or eager.get(key) for key in ("pre", "case"))
    seconds = s.max_iterations * found["self"]["ms"] / 1000
    seconds += s.pre_iterations * pre["ms"] / 1000 if pre else 0
    seconds += validations * cases * case if case else 0
    return f"{'' if pre and case else '>'}{seconds / 3600:.2f}"


if __name__ == "__main__":
    run(main)
