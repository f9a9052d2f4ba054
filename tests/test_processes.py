"""What several processes compute together, two of them over gloo against one."""

import io
import multiprocessing
import socket
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import pytest
import torch
import torch.distributed as dist
from helpers import assert_same
from test_precision import Steep, scaled_steps
from torch import nn

from commands.networks import share_batch_norm
from commands.run_data import run_data
from commands.run_folder import claimed
from datasets.acdc import DATASET
from evaluation.validation import validate
from networks.norm import synchronise
from networks.registry import build
from training.accelerate import check_accelerate
from training.distributed import average_gradients
from utils.case import Case
from utils.errors import UserError

RECOMPUTED = ", recomputed"
INPUTS = {"unet": (4, 1, 32, 32)} | dict.fromkeys(
    ("VNet", "VNet_pancreas", "VNet" + RECOMPUTED), (4, 1, 32, 16, 16)
)


def together(work, *given):
    """What `work(rank, *given)` gives in each of two processes that have met over gloo."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    context, ends, processes = multiprocessing.get_context("fork"), [], []
    for rank in range(2):
        mine, theirs = context.Pipe(duplex=False)
        ends.append(mine)
        processes.append(context.Process(target=_member, args=(rank, port, theirs, work, given)))
        processes[-1].start()
        theirs.close()  # so that a process that fails is noticed
    try:
        assert all(end.poll(60) for end in ends)
        return [torch.load(io.BytesIO(end.recv_bytes())) for end in ends]
    finally:
        for process in processes:
            process.join(20)
            process.kill()


def _member(rank, port, end, work, given):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"tcp://localhost:{port}",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=60),
    )
    content = io.BytesIO()
    torch.save(work(rank, *given), content)
    end.send_bytes(content.getvalue())
    dist.destroy_process_group()


def network(name):
    torch.manual_seed(0)
    net = build(name.removesuffix(RECOMPUTED), 1, 2, {"egm": "none"})
    net.recompute = name.endswith(RECOMPUTED)
    for module in net.modules():
        if isinstance(module, nn.Dropout | nn.Dropout3d):
            module.p = 0.0
    return net.double()


def passes(net, image, target, share=slice(None)):
    """Two backward passes of a share of the images: the last output and the mean gradients of all
    processes.
    """
    for part in image.chunk(2):
        output = net(part[share])
        (output - target[: len(part)][share]).square().mean().backward()
    average_gradients([net])
    gradients = {key: p.grad for key, p in net.named_parameters() if p.grad is not None}
    return {"output": output.detach(), "gradients": gradients}


def with_fixed_statistics(name):
    """A network in training mode whose batch norm uses its running statistics."""
    net = network(name)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            module.eval()
    return net


def half(rank, name, image, target):
    return passes(with_fixed_statistics(name), image, target, slice(rank, rank + 1))


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.long) if name != "unet" else name for name in INPUTS],
)
def test_two_processes_with_half_a_batch_each_have_the_gradients_of_one_with_all_of_it(name):
    """In float64; both processes have bit-identical gradients."""
    image = torch.rand(
        INPUTS[name], generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    target = (image > 0.5).double()
    whole = passes(with_fixed_statistics(name), image, target)
    first, second = together(half, name, image, target)
    assert_same(first["gradients"], second["gradients"])
    assert first["gradients"].keys() == whole["gradients"].keys()
    for key, gradient in whole["gradients"].items():
        torch.testing.assert_close(first["gradients"][key], gradient, rtol=1e-6, atol=1e-9, msg=key)
    output = torch.cat([first["output"], second["output"]])
    torch.testing.assert_close(output, whole["output"], rtol=1e-6, atol=1e-9)


def overflowing(rank):
    """The second process's gradients overflow in the first step."""
    phase = Steep(lambda step: 1e34 if rank == 1 and step == 0 else 1.0)
    return {"weight, scale, momentum": torch.tensor(list(scaled_steps(phase, 2)))}


def test_where_another_process_overflowed_nobody_steps():
    """With float16's scale: a step is left out in both processes, and the scale is halved in both;
    the next step is made.
    """
    first, second = together(overflowing)
    assert_same(first, second)
    assert first["weight, scale, momentum"].tolist() == [[5, 65536, 0], [5, 32768, 1]]


def test_sync_batch_norm_is_refused_on_the_cpu_and_with_accelerate(monkeypatch):
    monkeypatch.setattr("commands.networks.world", lambda: 2)
    with pytest.raises(
        UserError, match=r"^--sync_batch_norm: needs CUDA, and this run is on cpu; remove the flag$"
    ):
        share_batch_norm([nn.BatchNorm3d(2)], torch.device("cpu"))
    with pytest.raises(
        UserError, match="--accelerate compile: cannot be combined with --sync_batch_norm"
    ):
        check_accelerate("compile", torch.device("cpu"), recompute=False, over_processes=True)


def test_with_one_process_sync_batch_norm_changes_nothing():
    net = nn.Sequential(nn.BatchNorm3d(2))
    share_batch_norm([net], torch.device("cpu"))
    assert type(net[0]) is nn.BatchNorm3d


@pytest.mark.parametrize("name", ["unet", "VNet"])
def test_sync_batch_norm_replaces_every_batch_norm_and_keeps_the_state(name):
    net = network(name)
    before = net.state_dict()
    synchronise(net)
    norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert norms and all(type(norm) is nn.SyncBatchNorm for norm in norms)
    after = net.state_dict()
    assert_same(dict(after), dict(before))
    assert all(after[key].data_ptr() == value.data_ptr() for key, value in before.items())


@dataclass(frozen=True)
class Brightness:
    """Class numbers of a volume (1, S, H, W) by its brightness; no case looks like another."""

    def __call__(self, net, image):
        return torch.from_numpy(np.digitize(image[0], (0.3, 0.6)).astype(np.uint8))


def validated(rank, cases, distances, stops=(None, None)):
    validation = validate(
        nn.Identity(),
        lambda: stops[rank] == "stop",
        cases,
        Brightness(),
        ("background", "one", "two"),
        distances,
    )
    return None if validation is None else {"score": validation.score, **validation.scalars}


@pytest.mark.parametrize("distances", [True, False])
def test_a_validation_shared_out_is_that_of_one_process(distances):
    """Three cases, two processes: bit for bit, in both; a signal to one of them ends it for both."""
    rng = np.random.default_rng(0)
    images = [rng.random((1, 4, 8 + number, 8), dtype=np.float32) for number in range(3)]
    cases = [
        Case(
            f"case{number}",
            image,
            np.digitize(image[0] + 0.2 * number, (0.3, 0.6)).astype(np.uint8),
        )
        for number, image in enumerate(images)
    ]
    alone = validated(0, cases, distances)
    assert 0 < alone["score"] < 1
    assert together(validated, cases, distances) == [alone, alone]
    assert (
        together(validated, cases[:1], distances) == [validated(0, cases[:1], distances)] * 2
    )  # the second one has none
    assert together(validated, cases, distances, (None, "stop")) == [None, None]


def claimed_elsewhere(rank, folder):
    """Two machines that each have their own disk, where a run's folder goes by one name."""
    try:
        with claimed(folder / str(rank), []):
            return ""
    except UserError as error:
        return str(error)


def test_machines_that_share_no_disk_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr("commands.run_folder.PATIENCE", 0.2)
    said = together(claimed_elsewhere, tmp_path)
    assert (
        all("give an --output_root that all machines share" in line for line in said)
        and len(said) == 2
    )


def listed(rank, root, dataset, lists):
    try:
        run_data(root, dataset, [], {"test": lists[rank]}, [], False, print)
    except UserError as error:
        return str(error)
    return ""


def test_machines_with_other_lists_are_told(phantom_root):
    names = DATASET.info.read_list(phantom_root, "test.list")
    assert all(
        "not all processes read the same lists" in line
        for line in together(listed, phantom_root, DATASET, (names, names[:-1]))
    )
    assert together(listed, phantom_root, DATASET, (names, names)) == ["", ""]
