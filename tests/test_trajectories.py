"""Stages of the published codes through the one loop, and networks in training mode
(tests/vectors/README.md).
"""

import json
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest
import torch
from helpers import LOSS_2D, LOSS_3D, LOSS_BCP, Context
from reference import VECTORS, batches, filled_state_dict, predictable
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from datasets import acdc, la
from methods.base import Validation
from methods.bcp import BCPPretrain
from methods.copy_paste import CopyPaste
from methods.edge_guided import DualTeacher
from methods.stage_networks import add_scalars
from networks import net_factory_ega, net_factory_la_ega
from networks.published_weights import import_state_dict
from training.checkpoint import load
from training.device import has_bf16, place
from training.log import RunLog
from training.loop import Run, StageSetup, run_stages
from utils.losses import Loss

CPU = torch.device("cpu")
SCORES = [0.30, 0.20, 0.40, 0.35]
NETWORKS = {
    "unet": partial(net_factory_ega.net_factory, "unet"),
    "unet_bcp": partial(net_factory_ega.net_factory, "unet", egm="none"),
    "vnet_la": partial(net_factory_la_ega.net_factory, "VNet"),
    "vnet_cogrnet": partial(net_factory_la_ega.net_factory, "VNet", egm="none"),
    "vnet_pancreas": partial(net_factory_la_ega.net_factory, "VNet_pancreas"),
}
INPUTS = {"unet": (2, 1, 96, 96), "unet_bcp": (2, 1, 96, 96)} | dict.fromkeys(
    ("vnet_la", "vnet_cogrnet"), (2, 1, 48, 48, 48)
)
INPUTS["vnet_pancreas"] = (2, 1, 32, 32, 32)


def filled(network: str) -> nn.Module:
    net = NETWORKS[network]()
    import_state_dict(net, filled_state_dict(network))
    return predictable(net)


@pytest.mark.parametrize("network", NETWORKS)
def test_networks_in_training_mode_as_published(network):
    draw = torch.rand if network.startswith("unet") else torch.randn
    image = draw(INPUTS[network], generator=torch.Generator().manual_seed(11))
    with torch.no_grad():
        logits = filled(network)(image)
    with np.load(VECTORS / "train_mode.npz") as file:
        expected = torch.from_numpy(file[network])
    every_fourth = logits[(slice(None), slice(None), *[slice(None, None, 4)] * (logits.ndim - 2))]
    assert (every_fourth - expected).abs().max() < 1e-4 * expected.abs().max()


@dataclass(frozen=True)
class GivenCorners(CopyPaste):
    corners: tuple = ()

    def corner(self, shape, step):
        return self.corners[step]


@dataclass(frozen=True)
class Case:
    network: str
    loss: Loss
    end_ratio: float
    weight_decay: float
    scope: str = "state"
    kind: str = "dynamic"
    decay: float = 0.99
    teachers: str = "dual"
    lr_drop: int = 0
    total: str = "info/total_loss"
    exact: int = 8


CASES = {
    "acdc_pre": Case("unet", LOSS_2D, 1 / 3, 1e-4),
    "acdc_self": Case("unet", LOSS_2D, 1 / 3, 1e-4, decay=0.89),
    # Rounding grows in this one: with another number of threads, losses from the third on differ by
    # up to 5e-3. The test in float64 checks all eight.
    "bcp_self": Case("unet_bcp", LOSS_BCP, 1 / 3, 1e-4, kind="fixed", teachers="ema", exact=3),
    "la_pre": Case("vnet_la", LOSS_3D, 1 / 2, 1e-3, total="pre/loss_all"),
    "la_self": Case(
        "vnet_la", LOSS_3D, 1 / 2, 1e-4, "parameters", lr_drop=4, total="Self/loss_all"
    ),
}


def published_trajectory(name):
    return json.loads((VECTORS / f"trajectory_{name}.json").read_text(encoding="utf-8"))


def trajectory(name, tmp_path, steps, amp=None, device=CPU, dtype=torch.float32):
    """A case's first steps: its phase, as they leave it, and what each call of its losses reports.
    Weights are filled in float32, then converted to `dtype`.
    """
    case, published = CASES[name], published_trajectory(name)
    corners, dims = published["corners"], 2 if case.network.startswith("unet") else 3
    boxes = GivenCorners(
        case.kind, case.end_ratio, len(corners), seed=(0,), corners=tuple(map(tuple, corners))
    )
    pasting = (acdc if dims == 2 else la).DATASET.pasting
    student = place(filled(case.network).to(dtype), device, dims, amp)
    pretraining = name.endswith("pre")
    settings = {"ema_decay": case.decay, "teachers": case.teachers, "static_range": (1, 4)}
    context = Context(student, case.loss, pasting, case.scope, settings=settings)
    phase = (BCPPretrain if pretraining else DualTeacher)(context)
    phase.copy_paste = boxes
    seen, losses = [], phase.losses

    def recorded(batch, step):
        seen.append({})
        for loss in losses(batch, step):
            add_scalars(seen[-1], {"loss": loss.total, **loss.scalars})
            yield loss
        logged = phase.take_logged()
        seen[-1].update(logged)
        for name, value in logged.items():
            phase.log(name, value)

    phase.losses = recorded
    scores = iter(SCORES)
    stage = StageSetup(
        stage=phase,
        optimizers={
            "student": torch.optim.SGD(
                student.parameters(), lr=0.01, momentum=0.9, weight_decay=case.weight_decay
            )
        },
        steps=steps,
        val_every=2,
        batches=partial(batches, dims, pretraining, dtype),
        validate=lambda net, stopped, step: Validation(next(scores), {}),
        learning_rate=lambda step: 0.01 * 0.1 ** (step // case.lr_drop if case.lr_drop else 0),
        seed=(0,),
    )
    about = {"settings": {}, "facts": {}, "selection": ""}
    run = Run(tmp_path, lambda stage: "best.pth", about, device, dims, amp, RunLog(tmp_path))
    run_stages(run, {phase.name: lambda: stage})
    return phase, seen


@pytest.fixture
def published_layout(monkeypatch):
    """The published memory format: the faster one rounds differently, which training multiplies to
    1e-4 of la_self's loss.
    """
    monkeypatch.setattr("training.device.memory_format", lambda *arguments: torch.contiguous_format)


@pytest.mark.parametrize("name", CASES)
def test_trajectory_as_published(name, tmp_path, published_layout):
    assert_as_published(name, tmp_path)


def assert_as_published(name, tmp_path, device=CPU):
    case, published = CASES[name], published_trajectory(name)
    phase, seen = trajectory(name, tmp_path, len(published["corners"]), device=device)

    for ours, theirs in {
        "loss": case.total,
        "loss_dice": "info/mix_dice",
        "loss_ce": "info/mix_ce",
    }.items():
        if theirs in published["losses"]:
            got = [float(losses[ours]) for losses in seen]
            expected = published["losses"][theirs]
            np.testing.assert_allclose(
                got[: case.exact], expected[: case.exact], rtol=1e-4, err_msg=theirs
            )
            np.testing.assert_allclose(got, expected, rtol=5e-3, err_msg=theirs)
    last = load(tmp_path / phase.name / "last.pth")
    for network, tensors in published["weights"].items():
        state = last["student"] if network == "student" else last["phase"][network]
        for key, expected in tensors.items():
            got = state[key].flatten()[:32].numpy()
            tolerance = 1e-3 if case.exact == 8 else 1e-2
            assert np.abs(got - expected).max() < tolerance * np.abs(expected).max(), (
                f"{network} {key}"
            )


# The name of a loss of ours, and what the published codes call it.
PUBLISHED_NAMES = {
    "loss": ("info/total_loss", "pre/loss_all"),
    "loss_dice": ("info/mix_dice", "pre/loss_dice"),
    "loss_ce": ("info/mix_ce", "pre/loss_ce"),
    "consistency_weight": ("info/consistency_weight",),
}


@pytest.mark.parametrize(
    "name",
    [
        "acdc_pre",
        "acdc_self",
        "bcp_self",
        pytest.param("la_pre", marks=pytest.mark.long),  # more than 10 s a step
    ],
)
def test_trajectory_in_float64_is_the_published_one_to_1e_9(name, tmp_path):
    """Every loss of every iteration. The memory format is the one that training uses."""
    published = published_trajectory(name)["losses_float64"]
    steps = len(published[CASES[name].total])
    _, reported = trajectory(name, tmp_path, steps, dtype=torch.float64)
    assert len(reported) == steps
    compared = set()
    for ours, names in PUBLISHED_NAMES.items():
        for theirs in published.keys() & set(names):
            values = [float(losses[ours]) for losses in reported]
            np.testing.assert_allclose(values, published[theirs], rtol=1e-9, err_msg=theirs)
            compared.add(ours)
    assert {"loss", "loss_dice", "loss_ce"} <= compared


@pytest.mark.parametrize(
    "dtype, expected",
    [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
    ],
)
def test_the_mean_of_teachers_is_computed_in_float32_or_better(dtype, expected):
    dtypes = []

    def pseudo_label(logits):
        dtypes.append(logits.dtype)
        return lambda: logits.argmax(1)

    pasting = replace(acdc.DATASET.pasting, pseudo_label=pseudo_label)
    student = nn.Conv2d(1, 4, kernel_size=1).to(dtype)
    phase = DualTeacher(Context(student, LOSS_2D, pasting))
    phase.pseudo_label(torch.zeros((2, 1, 8, 8), dtype=dtype))
    assert dtypes == [expected]


class QuickHalf(TorchDispatchMode):
    """Convolutions in half precision as hardware makes them: rounded factors, sums in float32,
    rounded results. Where the CPU has no such hardware its own way to the same takes a hundred
    times as long.
    """

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        half = next((x.dtype for x in args if isinstance(x, torch.Tensor)), None)
        if "convolution" not in function.overloadpacket.__name__ or half not in (
            torch.bfloat16,
            torch.float16,
        ):
            return function(*args, **(kwargs or {}))
        result = function(
            *(x.float() if isinstance(x, torch.Tensor) else x for x in args), **(kwargs or {})
        )
        return tree_map_only(torch.Tensor, lambda x: x.to(half), result)


@pytest.mark.parametrize(
    "name, amp",
    [
        ("acdc_pre", torch.float16),
        ("acdc_pre", torch.bfloat16),
        *(
            pytest.param(name, torch.bfloat16, marks=pytest.mark.long)
            for name in ("acdc_self", "la_pre", "la_self")
        ),
    ],
)
def test_half_precision_keeps_to_the_trajectory(name, amp, tmp_path):
    """The losses of the first steps are those of float32 to 1e-2."""
    with nullcontext() if amp == torch.bfloat16 and has_bf16(CPU) else QuickHalf():
        assert_keeps_to_trajectory(name, tmp_path, amp)


def assert_keeps_to_trajectory(name, tmp_path, amp, device=CPU):
    _, seen = trajectory(name, tmp_path, steps=3, amp=amp, device=device)
    published = published_trajectory(name)["losses"][CASES[name].total]
    np.testing.assert_allclose([float(losses["loss"]) for losses in seen], published[:3], rtol=1e-2)
