"""Half precision: scaled gradients of float16 as the loop makes its steps, weights cast once a
step, what is chosen where.

Run on the CPU, where torch computes in both types and scales gradients as on CUDA; no card was at
hand.
"""

import math

import pytest
import torch
from helpers import Context, assert_same
from test_accelerate import Tiny
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import training.device
from methods.base import TrainingStage, Validation
from methods.edge_guided import DualTeacher
from networks.egm_3d import EdgeConv3d
from networks.net_factory_la_ega import net_factory
from training.checkpoint import load
from training.checkpoint_content import check_whole
from training.device import autocast_type, memory_format
from training.log import RunLog
from training.loop import Run, StageSetup, run_stages
from training.precision import Precision
from training.step import train_step
from utils.errors import UserError
from utils.losses import StepLoss

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
HALF, BRAIN = torch.float16, torch.bfloat16


class Steep(TrainingStage):
    """One weight, whose loss has the slope `slope(step)` everywhere: its gradients overflow float32
    when scaled by 65536.
    """

    name = "steep"

    def __init__(self, slope=lambda step: 1e34) -> None:
        super().__init__(Context(nn.Linear(1, 1, bias=False)))
        nn.init.constant_(self.student.weight, 5.0)
        self.slope = slope

    def losses(self, batch, step):
        weight = self.student.weight.sum()
        yield StepLoss((weight - weight.detach()) * self.slope(step), {})


def scaled_steps(phase, steps, precision=None, **options):
    precision = precision or Precision(CPU, HALF)
    optimizer = torch.optim.SGD(phase.student.parameters(), lr=1e-34, momentum=0.5, **options)
    precision.prepare(phase, [optimizer])
    for step in range(steps):
        scalars = train_step(phase, {"student": optimizer}, {}, step, precision)
        yield (
            phase.student.weight.item(),
            float(scalars["loss_scale"]),
            optimizer.state[phase.student.weight]["momentum_buffer"].item(),
        )


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_whose_scaled_gradients_overflow_is_left_out(fused):
    """65536 x 1e34 is too much for float32, half of it is not: from then on gradients are those of
    the loss itself. The weight falls by lr x momentum: 1, then 1.5.
    """
    weights, scales, momenta = zip(*scaled_steps(Steep(), 3, fused=fused), strict=True)
    assert weights == pytest.approx((5, 4, 2.5)) and scales == (65536, 32768, 32768)
    assert momenta == pytest.approx((0, 1e34, 1.5e34))


def test_where_another_process_overflowed_nobody_steps(monkeypatch):
    """Gradients are averaged before they are looked at."""

    def average(nets):
        for net in nets:
            net.weight.grad += math.inf

    monkeypatch.setattr("training.step.average_gradients", average)
    assert list(scaled_steps(Steep(lambda step: 1.0), 2)) == [(5, 65536, 0), (5, 32768, 0)]


def stage(phase, steps):
    return StageSetup(
        stage=phase,
        optimizers={"student": torch.optim.SGD(phase.student.parameters(), lr=1e-34, momentum=0.5)},
        steps=steps,
        val_every=2,
        batches=lambda steps: ({} for _ in steps),
        validate=lambda *arguments: Validation(0.5, {}),
        learning_rate=lambda step: 1e-34,
        seed=(0,),
    )


def run(folder, phase, steps):
    about = {"settings": {}, "facts": {"name": "none"}, "selection": ""}
    info = Run(folder, lambda name: "best.pth", about, CPU, 2, HALF, RunLog(folder))
    run_stages(info, {phase.name: lambda: stage(phase, steps)})
    return load(folder / "steep" / "last.pth")


def test_the_scale_is_saved_and_resumed(tmp_path):
    """An overflow is no lost loss; in two calls the run ends as in one, in the scale and its
    counter too.
    """
    whole = run(tmp_path / "one", Steep(), 4)
    assert (whole["scaler"]["scale"], whole["scaler"]["_growth_tracker"]) == (32768, 3)
    run(tmp_path / "two", Steep(), 2)
    assert_same(run(tmp_path / "two", Steep(), 4), whole)


def test_a_loss_that_no_scale_helps_is_told(tmp_path):
    phase = Steep()

    def losses(batch, step):
        weight = phase.student.weight
        yield StepLoss((weight - weight.detach()).sqrt().sum(), {})  # 0, of slope infinity

    phase.losses = losses
    with pytest.raises(UserError, match=r"gradients overflow float16 at any scale.*--amp off"):
        run(tmp_path, phase, 60)


@pytest.mark.parametrize(
    "scaler, fault",
    [
        ({"scale": math.nan}, "unexpected entries or values"),
        ({"scale": 1.0, "other": 2}, "unexpected entries or values"),
        ([1.0], "the wrong type"),
    ],
)
def test_a_scaler_that_makes_no_sense_is_refused(scaler, fault, tmp_path):
    content = run(tmp_path, Steep(), 2)
    check_whole(content)
    scaler = {**content["scaler"], **scaler} if isinstance(scaler, dict) else scaler
    with pytest.raises(ValueError, match=f"'scaler' has {fault}"):
        check_whole({**content, "scaler": scaler})


class Casts(TorchDispatchMode):
    """Counts casts to half precision of the tensors given, one by one and in lists."""

    def __init__(self, tensors) -> None:
        super().__init__()
        self.places = {tensor.data_ptr() for tensor in tensors}
        self.single = self.lists = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        self.single += (
            name == "_to_copy"
            and args[0].data_ptr() in self.places
            and (kwargs or {}).get("dtype") in (HALF, BRAIN)
        )
        self.lists += name == "_foreach_copy_" and args[1][0].data_ptr() in self.places
        return function(*args, **(kwargs or {}))


def test_teachers_weights_are_cast_once_a_step():
    """Two teachers look at two halves of the images; the same step as with autocast's own casts,
    bit for bit, statistics too.
    """
    results = []
    for prepared in (True, False):
        torch.manual_seed(0)
        phase = DualTeacher(Context(Tiny(2, 4)))
        optimizer, precision = (
            torch.optim.SGD(phase.student.parameters(), lr=0.1),
            Precision(CPU, BRAIN),
        )
        if prepared:
            precision.prepare(phase, [optimizer])
        batch = {"image": torch.rand(8, 1, 16, 16), "label": torch.randint(0, 4, (4, 16, 16))}
        for step in range(2):
            with Casts(
                [p for teacher in phase.teachers.values() for p in teacher.parameters()]
            ) as casts:
                scalars = train_step(phase, {"student": optimizer}, batch, step, precision)
            phase.after_step(step)
            assert (casts.single, casts.lists) == (
                (0, 1) if prepared else (2 * 2 * 4, 0)
            )  # two layers, weight and bias
        results.append(
            (scalars["loss"], {name: net.state_dict() for name, net in phase.networks.items()})
        )
    assert_same(results[0][1], results[1][1])
    assert results[0][0] == results[1][0]


def test_a_twin_shares_what_autocast_would_not_cast():
    """Of the V-Net: normalisation, its statistics, and the weights that are folded in float32; and
    it follows train() and eval().
    """
    phase = TrainingStage(Context(net_factory("VNet")))
    teacher = phase.add_teacher("teacher")
    Precision(CPU, BRAIN).prepare(phase, torch.optim.SGD(phase.student.parameters()))
    twin, kinds = phase.half_precision_copies["teacher"], set()
    for (name, module), other in zip(teacher.named_modules(), twin.modules(), strict=True):
        for key, tensor in (
            *module.named_parameters(recurse=False),
            *module.named_buffers(recurse=False),
        ):
            mine = getattr(other, key)
            assert (mine is tensor) or mine.dtype == BRAIN, name
            kinds.add((type(module), mine is tensor))
    assert (
        (EdgeConv3d, True) in kinds
        and (nn.Conv3d, False) in kinds
        and {shared for kind, shared in kinds if "Norm" in kind.__name__} == {True}
    )
    twin.forward = lambda x: x
    teacher.eval()
    phase.call("teacher", torch.zeros(1))
    assert not twin.training and phase.student.training


@pytest.mark.parametrize(
    "capability, amp, chosen",
    [
        ((8, 0), "auto", BRAIN),
        ((7, 5), "auto", HALF),
        ((6, 1), "auto", None),
        ((7, 5), "fp16", HALF),
        ((8, 0), "fp16", HALF),
        ((8, 0), "off", None),
    ],
)
def test_what_is_chosen_for_a_card(monkeypatch, capability, amp, chosen):
    """An RTX 2080, the authors' card, is a 7.5."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert autocast_type(amp, CUDA) == chosen


def test_what_a_card_lacks_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (6, 1))
    for amp in ("bf16", "fp16"):
        with pytest.raises(
            UserError, match=f"--amp {amp}: this cuda is not known to .* that type; use --amp auto"
        ):
            autocast_type(amp, CUDA)
    with pytest.raises(UserError, match="--amp fp16: this cpu"):
        autocast_type("fp16", CPU)
    monkeypatch.setattr(training.device, "has_bf16", lambda device: False)
    assert autocast_type("auto", CPU) is None


def test_channels_last_on_cuda_where_its_matrix_units_work():
    last = {2: torch.channels_last, 3: torch.channels_last_3d}
    for dims in (2, 3):
        assert (
            memory_format(CUDA, dims, HALF)
            == memory_format(CUDA, dims, BRAIN)
            == memory_format(CPU, dims)
            == last[dims]
        )
        assert (
            memory_format(CUDA, dims)
            == memory_format(torch.device("mps"), dims, BRAIN)
            == torch.contiguous_format
        )
