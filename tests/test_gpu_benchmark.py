"""benchmarks/gpu.py without a GPU: rows measured on the CPU, rows that fail, the time that is up;
what CUDA would say is made up here.
"""

import contextlib
import io
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.autograd import DeviceType

from benchmarks import gpu, gpu_row
from benchmarks.gpu_row import Row
from training import device as devices
from utils.errors import UserError

pytestmark = pytest.mark.usefixtures("narrow")

BENCHMARKS = Path(gpu.__file__).parent
SMALL = {"ACDC": ("80", "80"), "LA": ("32", "32", "16")}


@pytest.fixture
def here(monkeypatch):
    """Rows are measured in this process, with its narrow networks."""

    def ask(flags, seconds):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            gpu_row.main(list(flags))
        return gpu.parts_in(out.getvalue())

    monkeypatch.setattr(gpu, "ask", ask)
    monkeypatch.setattr(gpu_row, "WARM", 1)
    monkeypatch.setattr(gpu_row, "LEARNT", 1)
    monkeypatch.setattr(gpu_row, "PROFILED", 1)


def lines(capsys, dataset, *flags):
    """What a small run on the CPU prints, by the beginnings of its lines."""
    sizes = ("--patch_size", *SMALL[dataset], "--batch_size", "4", "--steps", "1")
    gpu.main(["--device", "cpu", "--datasets", dataset, *sizes, *flags])
    return capsys.readouterr().out.splitlines()


def begun(said, name):
    (line,) = [line for line in said if line.startswith(f"{name} ")]
    return line.removeprefix(name).split()


@pytest.mark.parametrize("dataset", ["ACDC", pytest.param("LA", marks=pytest.mark.long)])
def test_rows_are_measured_and_the_others_are_a_line(dataset, here, monkeypatch, capsys):
    monkeypatch.setattr(devices, "has_bf16", lambda device: False)
    said = lines(
        capsys,
        dataset,
        "--methods",
        "edge_guided",
        "--ways",
        "eager",
        "graph",
        "--precisions",
        "float32",
        "TF32",
    )
    for name in ("eager float32", "eager float32 no_deterministic"):
        (found,) = [line for line in said if line.startswith(f"{dataset} edge_guided {name}  ")]
        learn, pre, first, allocated, reserved, case, hours, waits = found.removeprefix(
            f"{dataset} edge_guided {name}"
        ).split()
        assert (allocated, reserved, waits) == ("-", "-", "-")
        assert min(map(float, (learn, pre, first))) > 0 and float(case) >= 0 and float(hours) >= 0
    assert begun(said, f"{dataset} edge_guided eager TF32") == ["TF32:", "only", "on", "CUDA"]
    assert "not for cpu" in " ".join(begun(said, f"{dataset} edge_guided graph float32"))
    ranked = said[
        next(at for at, line in enumerate(said) if "operations of torch a step; " in line) + 1 :
    ]
    ranked = [line for line in ranked if line.startswith("     ")]
    assert len(ranked) == 15 and any("convolution" in line for line in ranked)
    assert any(line.startswith("Not CUDA") for line in said)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_row_in_half_precision(precision, monkeypatch):
    """Where the hardware had it: the step, scaled gradients, validation under autocast."""
    monkeypatch.setattr(gpu_row, "WARM", 1)
    monkeypatch.setattr(gpu_row, "LEARNT", 1)
    for name in ("bf16", "fp16"):  # whatever this machine has
        monkeypatch.setattr(devices, f"has_{name}", lambda device, there=name == precision: there)
    flags = gpu_row.Flags(
        dataset="ACDC",
        precision=precision,
        device="cpu",
        patch_size=(80, 80),
        batch_size=4,
        steps=1,
    )
    parts = list(gpu_row.measured(flags))
    assert [next(iter(part)) for part in parts] == ["pre", "self", "case", "without_deterministic"]
    assert gpu_row.about(torch.device("cpu"))["auto"] == precision


def test_what_the_time_is_too_short_for_is_named(here, capsys):
    said = lines(capsys, "ACDC", "--minutes", "0")
    rows = [
        line for line in said if " eager " in line or line.startswith("ACDC edge_guided compile ")
    ]
    assert len(rows) >= 7 and all(line.endswith("  not run: no time left") for line in rows)


@pytest.mark.long
def test_a_row_that_ends_in_any_way_is_a_line():
    assert gpu.ask(["--device", "cpu", "--precision", "TF32"], 100) == {
        "failed": "TF32: only on CUDA"
    }
    assert gpu.ask(["--device", "cpu"], 0.1) == {"failed": "stopped after 0 s"}
    assert gpu.ask(["--precision", "fp8"], 100)["failed"].startswith("ended with status 2: error: ")


def test_out_of_memory_is_a_line(monkeypatch, capsys):
    def measured(flags):
        yield {"self": {"ms": 1000.0, "first": 2.0}, "allocated": 3.0}
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried in vain")

    monkeypatch.setattr(gpu_row, "measured", measured)
    assert gpu_row.main(["--device", "cpu"]) == 1
    found = gpu.parts_in(capsys.readouterr().out)
    (line,) = gpu.row_lines(Row(), found, {}, "cuda")
    figures, _, failed = line.partition("; then ")
    assert figures.split()[-8:] == ["1000.0", "-", "2.0", "3.00", "-", "-", ">8.33", "-"]
    assert failed == "OutOfMemoryError: CUDA out of memory."


def test_hours_are_those_of_iterations_and_validations():
    """LA: 2 000 and 15 000 iterations, 10 + 75 validations of 20 cases; a compiled row takes what
    it has not from the eager one.
    """
    eager = {"self": {"ms": 100.0}, "pre": {"ms": 18.0}, "case": 0.1}
    seconds = 15_000 * 0.06 + 2_000 * 0.018 + 85 * 20 * 0.1
    row = Row("LA", way="compile")
    assert gpu.hours({"self": {"ms": 60.0}}, eager, row) == f"{seconds / 3600:.2f}"
    assert gpu.hours({"self": {"ms": 60.0}}, {}, row) == f">{15_000 * 0.06 / 3600:.2f}"


@pytest.mark.parametrize("auto", ["bf16", "fp16", "float32"])
def test_every_way_and_precision_has_its_row_once(auto):
    rows = gpu.rows(gpu.Flags(), auto)
    assert len(set(rows)) == len(rows)
    assert {row.dataset for row in rows} == {"ACDC", "LA"} and {row.method for row in rows} == {
        "edge_guided",
        "bcp",
    }
    assert {row.precision for row in rows if row.way == "eager"} == {
        "float32",
        "TF32",
        "bf16",
        "fp16",
    }
    for way in ("compile", "graph"):
        assert {row.precision for row in rows if row.way == way} == {auto, "float32"}
    assert [(row.precision, row.kernels) for row in rows[:2]] == 2 * [(auto, True)]
    assert sum(not row.deterministic for row in rows) == 2


def test_waits_are_reported_with_their_places(monkeypatch):
    """As torch has it: an error at the first of them, or a warning at each."""
    mode, steps = [], []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", mode.append)

    def wait(text="called a synchronizing CUDA operation"):
        if mode[-1] == "error":
            raise RuntimeError(text)
        gpu_row.warnings.warn(text, stacklevel=1)

    def step():
        steps.append(mode[-1])
        wait()
        wait()

    def elsewhere():
        wait("no kernel image is available")

    found = gpu_row.waits(step)
    assert steps == ["error", "warn"] and mode == ["error", "default", "warn", "default"]
    assert all(place.startswith("tests/test_gpu_benchmark.py:") for place in found)
    assert gpu_row.waits(lambda: None) == []
    with pytest.raises(RuntimeError, match="no kernel image"):
        gpu_row.waits(elsewhere)
    assert mode[-1] == "default"


def test_operations_without_a_deterministic_form_are_named_once():
    before = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("warn")
    try:
        with gpu_row.noted_warnings("always", gpu_row.nondeterministic) as said:
            for _ in range(2):
                torch.zeros(3).put_(torch.tensor([0]), torch.tensor([1.0]))
            gpu_row.warnings.warn("something else", stacklevel=1)
    finally:
        torch.set_deterministic_debug_mode(before)
    assert said == ["put_"]


def test_kernels_are_ranked_by_their_time_on_the_device():
    def average(key, where, count, microseconds, annotation=False):
        clocks = {"self_device_time_total": microseconds, "self_cpu_time_total": 1}
        return SimpleNamespace(
            key=key, device_type=where, count=count, is_user_annotation=annotation, **clocks
        )

    averages = [
        average("aten::conv", DeviceType.CPU, 4, 900),  # whose kernels are counted by themselves
        average("short", DeviceType.CUDA, 8, 1000),
        average("long", DeviceType.CUDA, 2, 3000),
        average("Optimizer.step", DeviceType.CUDA, 2, 9000, annotation=True),
    ]
    found = gpu_row.ranking(averages, DeviceType.CUDA, steps=2)
    assert found == {"launches": 5, "top": [("long", 1, 1.5, 0.75), ("short", 4, 0.5, 0.25)]}


def test_without_cuda_it_is_one_line(tmp_path):
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHON": gpu.sys.executable}
    done = subprocess.run(
        ["sh", str(BENCHMARKS / "gpu.sh")],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    (line,) = (done.stdout + done.stderr).splitlines()
    assert (
        done.returncode == 2
        and line.startswith("error: --device cuda: torch finds no CUDA here")
        and not list(tmp_path.iterdir())
    )


def test_sizes_must_be_those_of_the_data_set():
    with pytest.raises(UserError, match="--patch_size: LA has 3 sides"):
        gpu.main(["--device", "cpu", "--patch_size", "80", "80"])
