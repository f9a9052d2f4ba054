"""What only a GPU can show: the published trajectories there, steps that do not wait for it,
recorded graphs, runs that repeat and resume bit for bit. `make test-gpu` on a machine that has one;
elsewhere benchmarks/counts.py and the `meta` device stand in.
"""

import socket

import pytest
import torch
from helpers import assert_same, signalled, train
from scripts import evaluate
from test_accelerate import case
from test_processes import INPUTS, RECOMPUTED, network, passes
from test_step import SMALL, page_of, places
from test_training import TINY
from test_trajectories import CASES, assert_as_published, assert_keeps_to_trajectory

from benchmarks.counts import runner
from benchmarks.gpu_row import waits
from datasets.acdc import DATASET as ACDC
from datasets.la import DATASET as LA
from methods.edge_guided import DualTeacher
from networks.fast import matrices
from networks.norm import synchronise
from training.accelerate import accelerated
from training.device import place, set_deterministic
from training.precision import Precision
from training.step import train_step
from utils.errors import Interrupted

pytestmark = pytest.mark.cuda
CUDA = torch.device("cuda")
LA_TINY = {
    "patch_size": (32, 32, 16), "batch_size": 4, "labeled_bs": 2, "pre_iterations": 4, "max_iterations": 4, "val_every": 4, "labelnum": 2,
}  # fmt: skip


@pytest.fixture(autouse=True)
def as_published():
    """Deterministic float32, no TF32."""
    set_deterministic(True, tf32=False)
    yield
    set_deterministic(False)


@pytest.mark.parametrize("name", CASES)
def test_trajectory_as_published(name, tmp_path):
    assert_as_published(name, tmp_path, CUDA)


@pytest.mark.parametrize("amp", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", CASES)
def test_half_precision_keeps_to_the_trajectory(name, amp, tmp_path):
    assert_keeps_to_trajectory(name, tmp_path, amp, CUDA)


@pytest.mark.parametrize("name", CASES)
def test_tf32_keeps_to_the_trajectory(name, tmp_path):
    set_deterministic(True, tf32=True)
    assert_keeps_to_trajectory(name, tmp_path, None, CUDA)


@pytest.mark.parametrize("dataset, method", places())
@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
def test_the_host_waits_for_nothing_but_pseudo_labels(dataset, method, amp):
    numbers = {"patch_size": SMALL[dataset], "batch_size": 8, "labeled_bs": 4, "amp": amp}
    loop, batch = runner(page_of(dataset, method), CUDA, method=method, **numbers)
    loop.precision.prepare(loop.stage, loop.setup.optimizers.values())
    batch = {key: x.pin_memory() for key, x in batch.items()}
    loop._train_step(batch)  # makes what is made once
    assert waits(lambda: loop._train_step(batch)) == []


@pytest.mark.parametrize("how", ["compile", "graph"])
@pytest.mark.parametrize("name", ["unet", "VNet"])
def test_accelerated_steps_learn_the_same(name, how):
    """Losses of eight steps, the first of which compile and record."""
    losses = []
    for way in ("off", how):
        phase, batch = case(name)
        dims = batch["image"].ndim - 2
        place(phase.student, CUDA, dims)
        batch = {key: x.to(CUDA) for key, x in batch.items()}
        phase.compiled = accelerated(phase, way)
        optimizer = torch.optim.SGD(phase.student.parameters(), lr=0.01, momentum=0.9)
        losses.append(
            [
                float(
                    train_step(phase, {"student": optimizer}, batch, step, Precision(CUDA))["loss"]
                )
                for step in range(8)
            ]
        )
    assert losses[0][-1] < 0.99 * losses[0][0]
    assert losses[1][:2] == pytest.approx(losses[0][:2], rel=1e-4)
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)  # training multiplies rounding


@pytest.mark.parametrize("amp", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["unet", "VNet"])
def test_a_compiled_step_in_half_precision_loses_no_gradient(name, amp):
    """On the CPU torch's compiler (2.13.0) gave zeros in bfloat16 for all that lies below a
    concatenation, with the right loss.
    """
    found = []
    for way in ("off", "compile"):
        phase, batch = case(name)
        dims = batch["image"].ndim - 2
        place(phase.student, CUDA, dims, amp)
        batch = {key: x.to(CUDA) for key, x in batch.items()}
        phase.compiled = accelerated(phase, way)
        optimizer = torch.optim.SGD(phase.student.parameters(), lr=0.01)
        precision = Precision(CUDA, amp)
        precision.prepare(phase, [optimizer])
        before = [p.detach().clone() for p in phase.student.parameters()]
        train_step(phase, {"student": optimizer}, batch, 0, precision)
        found.append(
            [
                (old - new).norm().item()
                for old, new in zip(before, phase.student.parameters(), strict=True)
            ]
        )
    whole = sum(norm**2 for norm in found[0]) ** 0.5
    assert whole > 0
    for one, other in zip(*found, strict=True):
        assert other == pytest.approx(one, rel=0.5, abs=0.01 * whole)


@pytest.mark.usefixtures("narrow")
class TestRuns:
    """Whole commands on synthetic data."""

    @pytest.mark.parametrize("method", ["edge_guided", "averaged_copy_paste"])
    def test_the_same_command_gives_the_same_weights(self, phantom_root, tmp_path, method):
        numbers = {
            name: value
            for name, value in TINY.items()
            if method == "edge_guided" or not name.startswith("static_")
        }
        first, second = (
            train(ACDC, phantom_root, tmp_path / name, "--method", method, device="cuda", **numbers)
            for name in "ab"
        )
        assert_same(learnt(first), learnt(second))

    def test_a_run_is_recorded_in_a_process_that_has_computed_nothing_yet(
        self, phantom_root, tmp_path
    ):
        """What the networks keep from their first pass must not lie in the graphs' memory."""
        matrices._cached_matrix.cache_clear()
        made = train(ACDC, phantom_root, tmp_path, "--accelerate", "graph", device="cuda", **TINY)
        assert made["self_train/last.pth"]["progress"]["step"] == 12

    def test_images_on_the_device_make_the_same_run(self, phantom_root, tmp_path):
        first, second = (
            train(ACDC, phantom_root, tmp_path / where, "--cache", where, device="cuda", **TINY)
            for where in ("ram", "device")
        )
        assert_same(learnt(first), learnt(second))

    def test_an_interrupted_run_resumes_bit_for_bit(self, phantom_root, tmp_path, monkeypatch):
        whole = train(ACDC, phantom_root, tmp_path / "whole", device="cuda", **TINY)
        with signalled(monkeypatch, DualTeacher, 5), pytest.raises(Interrupted):
            train(ACDC, phantom_root, tmp_path / "part", device="cuda", **TINY)
        resumed = train(ACDC, phantom_root, tmp_path / "part", device="cuda", **TINY)
        assert_same(learnt(resumed), learnt(whole))

    @pytest.mark.parametrize("amp", ["off", "fp16", "bf16"])
    def test_volumes_train_and_are_tested(self, la_root, tmp_path, amp):
        made = train(LA, la_root, tmp_path, "--amp", amp, device="cuda", **LA_TINY)
        assert made["self_train/last.pth"]["progress"]["step"] == 4
        evaluate(
            LA,
            [
                "--root_path",
                str(la_root),
                "--output_root",
                str(tmp_path),
                "--labelnum",
                "2",
                "--device",
                "cuda",
            ],
        )
        assert list(tmp_path.rglob("*.csv"))


def learnt(found):
    """Of every checkpoint all but where and how it was made."""
    kept = ("student", "phase", "optimizer", "progress")
    return {name: {key: checkpoint[key] for key in kept} for name, checkpoint in found.items()}


def _meet(rank, port, folder, name, image, target):
    """One of two processes on one GPU over gloo, since NCCL takes one process per GPU."""
    meeting = f"tcp://localhost:{port}"
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    net = network(name).to(CUDA)
    synchronise(net)
    result = passes(net, image.to(CUDA), target.to(CUDA), slice(rank, rank + 1))
    torch.save({**result, "state": dict(net.state_dict())}, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("name", ["unet", "VNet", "VNet" + RECOMPUTED])
def test_halves_of_a_batch_are_normalised_as_the_whole(name, tmp_path):
    """--sync_batch_norm: outputs, gradients and running statistics in float64."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    image = torch.rand(INPUTS[name], dtype=torch.float64)
    target = (image > 0.5).double()
    torch.multiprocessing.spawn(_meet, (port, tmp_path, name, image, target), nprocs=2)
    net = network(name).to(CUDA)
    whole = passes(net, image.to(CUDA), target.to(CUDA))
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    close = {"rtol": 1e-6, "atol": 1e-9}
    torch.testing.assert_close(
        torch.cat([first["output"], second["output"]]), whole["output"], **close
    )
    for key, gradient in whole["gradients"].items():
        torch.testing.assert_close(first["gradients"][key], gradient, msg=key, **close)
    for key, value in net.state_dict().items():
        torch.testing.assert_close(first["state"][key], value, msg=key, **close)
