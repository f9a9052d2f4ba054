"""What one step of the loop asks of a device, counted on torch's `meta` device, and how its losses
are read.
"""

import math

import pytest
import torch
from helpers import Context
from torch import nn

from benchmarks.counts import Counting, runner
from datasets.registry import all_datasets
from methods.base import TrainingStage, Validation
from methods.registry import METHODS
from networks.egm import EdgeMap
from networks.net_factory_la_ega import net_factory
from training.log import RunLog
from training.loop import Run, StageSetup, run_stages
from training.memory import step_memory
from training.precision import Precision
from training.readings import Readings
from training.step import train_step
from utils.errors import UserError
from utils.losses import StepLoss

pytestmark = pytest.mark.usefixtures("narrow")

META, CPU = torch.device("meta"), torch.device("cpu")
THROUGH_THE_HOST = {
    "edge_guided": 2,
    "bcp": 2,
    "cogrnet": 2,
    "pseudo_label": 1,
    "averaged_copy_paste": 1,
    "abd": 4,
    "sdcl": 2,
}
"""Pseudo labels of a step whose largest components are kept, which the host computes; by method, 0
if not named.
"""
SMALL = {"ACDC": (96, 96), "LA": (32, 32, 16)}
OF_VOLUMES = ("edge_guided", "bcp", "cogrnet", "supervised", "ua_mt")
"""Methods whose step on volumes is counted in every test run, not only in the long ones."""


TWO_SLICES = ("cogrnet", "desco")
"""Methods that learn from two annotated slices of a volume."""
WAITING = ("ss_net",)
"""Methods that choose pixels by their labels, so that the host must wait for the number of pixels."""


def places():
    """Data sets and methods."""
    parameters = []
    for method in METHODS:
        if method in WAITING:
            continue
        if method not in TWO_SLICES:
            parameters.append(("ACDC", method))
        marks = [] if method in OF_VOLUMES else [pytest.mark.long]
        parameters.append(pytest.param("LA", method, marks=marks))
    return parameters


def page_of(dataset, method):
    """The page on which a method trains."""
    return all_datasets("TWO_SLICES" if method in TWO_SLICES else "DATASET")[dataset]


def step(dataset, method, **numbers):
    """The second step of a method's last stage; the first makes the optimiser's moments."""
    numbers = {"patch_size": SMALL[dataset], "batch_size": 8, "labeled_bs": 4, **numbers}
    steps, batch = runner(page_of(dataset, method), META, method=method, **numbers)
    with Counting():
        steps._train_step(batch)
    with Counting() as counting:
        scalars = steps._train_step(batch)
    return counting, scalars


@pytest.mark.parametrize("dataset, method", places())
def test_a_step_sends_its_batch_and_waits_for_nothing(dataset, method):
    """Images and labels go to the device; no scalar is read. A pseudo label goes to the host and
    comes back: both halves of the unlabelled images one after the other, those of `pseudo_label` in
    one.
    """
    egm = {"egm": "published"} if method in ("edge_guided", "supervised") else {}
    counting, scalars = step(dataset, method, **egm)
    pseudo = THROUGH_THE_HOST.get(method, 0)
    assert counting.count("to device") == 2 + pseudo
    assert (counting.count("to host"), counting.count("wait")) == (pseudo, 0)
    assert scalars["loss"].is_meta


def test_a_colour_image_needs_no_numbers_of_the_host():
    with Counting() as counting:
        EdgeMap().to(META)(torch.empty(2, 3, 96, 96, device=META))
    assert counting.count("to device") == 2  # the network's own kernels


def test_the_student_works_while_pseudo_labels_are_away():
    """Both halves leave before the student's first convolution, and the first comes back after the
    last one of that pass.
    """
    counting, _ = step("ACDC", "edge_guided")
    events = counting.events[2:]  # behind the batch's own way
    left, back = (
        [place for place, event in enumerate(events) if event == e]
        for e in ("to host", "to device")
    )
    between = events[left[1] + 1 : back[0]].count("convolution")
    whole_pass = (
        events[: left[0]].count("convolution") // 2
    )  # two teachers have looked at the first half
    assert between == whole_pass > 20
    assert (
        events[back[0] : back[1]].count("convolution") > between
    )  # the first backward pass, then the second image's


def test_counting_sees_copies_and_waits():
    with Counting() as counting:
        x = torch.ones(3).to(META)
        x.new_tensor([1.0, 2.0])
        x.copy_(torch.zeros(3))
        assert x.cpu().tolist() == [0.0] * 3 and float(x.sum()) == 1.0
    assert [counting.count(event) for event in ("to device", "to host", "wait")] == [3, 1, 1]


class InParts(TrainingStage):
    """Two images' losses, together or one by one."""

    name = "in_parts"

    def __init__(self, student: nn.Module, apart: bool) -> None:
        super().__init__(Context(student))
        self.apart = apart

    def losses(self, batch, step):
        each = (StepLoss(self.forward(x).square().mean(), {}) for x in batch["image"].split(1))
        if self.apart:
            yield from each
        else:
            yield StepLoss(sum(loss.total for loss in each), {})
        self.log("images", len(batch["image"]))


def test_parts_are_added_up_and_their_gradients_are_those_of_the_sum():
    torch.manual_seed(0)
    net, batch, results = (
        net_factory("VNet", mode="test"),
        {"image": torch.randn(2, 1, 32, 32, 16)},
        [],
    )
    state = {key: value.clone() for key, value in net.state_dict().items()}
    for apart in (False, True):
        net.load_state_dict(state)
        net.zero_grad()
        torch.manual_seed(1)

        optimizer = torch.optim.SGD(net.parameters(), lr=0)
        scalars = train_step(InParts(net, apart), {"student": optimizer}, batch, 0, Precision(CPU))
        assert scalars["images"] == 2 and not scalars["loss"].requires_grad
        results.append((scalars["loss"], [p.grad for p in net.parameters() if p.grad is not None]))
    (loss, gradients), (other_loss, others) = results
    torch.testing.assert_close(loss, other_loss, rtol=1e-6, atol=0)
    for a, b in zip(gradients, others, strict=True):
        assert (a - b).norm() <= 1e-6 * b.norm() + 1e-9


def test_memory_is_that_of_one_part():
    """Two images apart keep what one keeps; weights, gradients and moments stay."""
    kept = {}
    for apart in (False, True):
        phase = InParts(net_factory("VNet", egm="none"), apart)
        weights = sum(p.nbytes for p in phase.student.parameters())
        kept[apart] = step_memory(phase, 2, 0, 1, (32, 32, 32), moments=1).step_bytes - 3 * weights
    assert kept[True] == pytest.approx(kept[False] / 2, rel=0.05)


def test_readings_are_the_steps_scalars_in_order():
    readings = Readings()
    readings.add(
        1, {"loss": torch.tensor(0.1), "box": 3, "dice": torch.tensor([2.0], dtype=torch.float64)}
    )
    loss = torch.tensor(0.25)
    readings.add(2, {"loss": loss, "rate": 0.01})
    loss.fill_(7.0)  # as a recorded graph does with its own at the next step
    expected = [
        (1, {"loss": float(torch.tensor(0.1)), "box": 3.0, "dice": 2.0}),
        (2, {"loss": 0.25, "rate": 0.01}),
    ]
    assert readings.read() == expected and readings.read() == []


def run_alone(folder, phase, steps, read_every=1):
    """The phase as a run's only stage, validated at its end."""
    stage = StageSetup(
        stage=phase,
        optimizers={"student": torch.optim.SGD(phase.student.parameters(), lr=0.1)},
        steps=steps,
        val_every=steps,
        batches=lambda steps: ({} for _ in steps),
        validate=lambda *arguments: Validation(0.5, {}),
        learning_rate=lambda step: 0.1,
        seed=(0,),
    )
    about = {"settings": {}, "facts": {}, "selection": ""}
    run = Run(
        folder,
        lambda name: "best.pth",
        about,
        torch.device("cpu"),
        2,
        None,
        RunLog(folder),
        read_every=read_every,
    )
    run_stages(run, {phase.name: lambda: stage})


def test_a_state_that_is_not_finite_is_no_checkpoint(tmp_path):
    """The loss of the only step is finite, its gradients are not."""

    class Spoiling(TrainingStage):
        name = "spoiling"

        def losses(self, batch, step):
            weight = self.student.weight.sum()
            yield StepLoss((weight - weight.detach()).sqrt(), {})  # 0, of slope infinity

    with pytest.raises(
        UserError,
        match=r"spoiling, iteration 1: 'student.weight' holds NaN or infinite values.*last checkpoint is kept",
    ):
        run_alone(tmp_path, Spoiling(Context(nn.Linear(1, 1))), steps=1)
    assert not list(tmp_path.rglob("*.pth"))


@pytest.mark.parametrize("every, told", [(1, 3), (4, 4)])
def test_a_loss_that_is_no_number_is_told_with_its_iteration(tmp_path, every, told):
    """It comes at iteration 2 (from 0) and is noticed when losses are read."""

    class Failing(TrainingStage):
        name = "failing"

        def losses(self, batch, step):
            made.append(step)
            factor = math.nan if step == 2 else 1.0
            yield StepLoss(self.student.weight.sum() * factor, {})

    made = []
    with pytest.raises(UserError, match="the loss is nan at iteration 2 of failing"):
        run_alone(tmp_path, Failing(Context(nn.Linear(1, 1))), steps=8, read_every=every)
    assert len(made) == told and not list(tmp_path.rglob("*.pth"))
