"""The 3-D recipes through the one loop: what they leave behind, interrupted, killed, resumed."""

import gc
import os
import shutil
import signal

import helpers
import pytest
import torch
from forked import Forked
from helpers import (
    LOSS_3D,
    PANCREAS,
    Context,
    assert_same,
    signalled,
    stages,
    step_loss,
    together,
)
from scripts import evaluate
from torch import nn

from commands.training_run import TrainingRun
from datasets import la, pancreas
from datasets.resolve import resolve
from methods.base import TrainingStage
from methods.edge_guided import DualTeacher
from methods.supervised import Supervised
from networks.net_factory_la_ega import net_factory
from networks.registry import build
from training.checkpoint import load, save
from training.device import place
from training.memory import step_memory
from utils.errors import Interrupted, UserError
from utils.losses import StepLoss

pytestmark = pytest.mark.usefixtures("narrow")

TINY = {
    "egm": "none", "patch_size": (32, 16, 16), "batch_size": 4, "labeled_bs": 2, "pre_iterations": 4, "max_iterations": 4, "val_every": 2,
    "val_stride": (32, 16, 16), "static_start": 2, "static_step": 1, "static_range": (1, 3),
}  # fmt: skip
DATASETS = {
    "LA": (la.DATASET, TINY | {"labelnum": 2, "lr_drop_every": 2}),
    # a fourth of eight volumes labelled: one epoch of ten steps (two volumes five times over), then
    # two of six (six unlabelled ones)
    "Pancreas": (
        pancreas.DATASET,
        TINY
        | {
            "labelnum": 25,
            "pre_iterations": 1,
            "max_iterations": 2,
            "val_every": 1,
            "static_start": 1,
        },
    ),
}


@pytest.fixture(scope="module", params=["LA", pytest.param("Pancreas", marks=pytest.mark.long)])
def tiny(request, la_root, pancreas_root):
    """A page, numbers and a root."""
    return *DATASETS[request.param], {"LA": la_root, "Pancreas": pancreas_root}[request.param]


def train(tiny, output, *flags, **changes):
    dataset, numbers, root = tiny
    return helpers.train(dataset, root, output, *flags, **{**numbers, **changes})


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    """The folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    train(tiny, folder)
    return folder


@pytest.fixture(scope="module")
def uninterrupted(whole):
    return stages(whole)


def test_a_run_leaves_what_test_and_resume_need(tiny, uninterrupted):
    info = tiny[0].info
    names = {
        "LA": ("VNet_best_model.pth",) * 2,
        "Pancreas": ("best_ema_25_pre.pth", "best_ema_25_self.pth"),
    }[info.name]
    assert set(uninterrupted) == {
        "pre_train/last.pth",
        "self_train/last.pth",
        f"pre_train/{names[0]}",
        f"self_train/{names[1]}",
    }
    last = uninterrupted["self_train/last.pth"]
    steps = {"LA": [2, 4], "Pancreas": [6, 12]}[info.name]
    assert [row["step"] for row in last["progress"]["history"]] == steps
    assert "too good" in last["selection"] and last["facts"]["name"] == info.name
    assert set(last["phase"]) == {"ema_teacher", "static_teacher", "interval", "counter"}


def test_teachers_average_parameters_and_keep_their_own_statistics(uninterrupted, tiny):
    last = uninterrupted["self_train/last.pth"]
    buffers = [key for key in last["student"] if key.endswith("running_mean")]
    assert tiny[0].info is PANCREAS or any(
        not torch.equal(last["student"][k], last["phase"]["ema_teacher"][k]) for k in buffers
    )


def test_signals_save_and_the_same_command_resumes(tiny, tmp_path, monkeypatch, uninterrupted):
    with (
        signalled(monkeypatch, DualTeacher, 2),
        pytest.raises(Interrupted, match="iteration 3 of self_train"),
    ):
        train(tiny, tmp_path)
    assert_same(train(tiny, tmp_path), uninterrupted)


@pytest.mark.parametrize("tiny", ["LA"], indirect=True)
def test_place_and_memory_settings_change_no_number(tiny, tmp_path, uninterrupted):
    """--recompute, --cache none and workers: the same run bit for bit."""
    again = train(tiny, tmp_path, "--recompute", "--cache", "none", "--num_workers", "1")
    assert_same(
        {k: v["student"] for k, v in again.items()},
        {k: v["student"] for k, v in uninterrupted.items()},
    )


@pytest.mark.parametrize("tiny", ["LA"], indirect=True)
@pytest.mark.long
def test_a_killed_run_ends_as_if_it_had_not_been(tiny, tmp_path, uninterrupted):
    """Killed as soon as it has saved."""
    killed = Forked(lambda: train(tiny, tmp_path / "killed"))
    killed.wait(lambda: list(tmp_path.rglob("last.pth")))
    assert killed.stop(signal.SIGKILL).status == -signal.SIGKILL
    assert_same(train(tiny, tmp_path / "killed"), uninterrupted)


def _shared(rank, ports, tiny, folder):
    os.environ["MASTER_PORT"] = str(ports[0])
    train(tiny, folder, batch_size=8, labeled_bs=4, labelnum=50)


@pytest.mark.parametrize("tiny", ["Pancreas"], indirect=True)
@pytest.mark.long
def test_two_processes_share_an_epoch(tiny, tmp_path):
    """Four labelled volumes five times over, then four unlabelled ones, two of either to each
    process: ten steps, then two of two.
    """
    assert together(_shared, tiny, tmp_path) == [0, 0]
    pre, self_ = (
        stages(tmp_path)[f"{name}/last.pth"]["progress"] for name in ("pre_train", "self_train")
    )
    assert (pre["step"], self_["step"]) == (10, 4)


def test_both_checkpoints_are_tested_and_named(tiny, tmp_path, whole, capsys):
    """Here the best network is the last one, which would be tested once, so the last checkpoint is
    given a later iteration.
    """
    dataset, numbers, root = tiny
    runs = tmp_path / "runs"
    shutil.copytree(whole, runs)
    (last,) = runs.rglob("self_train/last.pth")
    content = load(last)
    for number in ("step", "validated"):
        content["progress"][number] += 1
    save(last, content)
    flags = ["--stride", "32", "32", "16", "--output_dir", str(tmp_path / "out")]
    evaluate(dataset, flags, labelnum=numbers["labelnum"], output_root=runs, root_path=root)
    said = capsys.readouterr().out
    assert "too good" in said and "not selected" in said
    for folder in ("out", "out/last"):
        assert {p.name for p in (tmp_path / folder).iterdir()} >= {"metrics.csv", "summary.json"}
    assert len(list((tmp_path / "out").glob("*_pred.nii.gz"))) == 2


def test_selection_by_ones_own_list(tiny, tmp_path):
    with pytest.raises(UserError, match=r"val\.(list|txt): no such list"):
        train(tiny, tmp_path, "--select", "val")


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--patch_size", "32", "32"], "--patch_size 32 32: give 3 sides"),
        (["--patch_size", "40", "32", "16"], "multiples of 16"),
        (["--val_stride", "16", "16"], "--val_stride 16 16: give three steps"),
        (["--val_stride", "16", "16", "0"], "--val_stride 16 16 0: give three steps"),
        (["--lr_drop_every", "-1"], "--lr_drop_every"),
        (["--model", "unet"], "--model unet: takes 2-D images"),
        (["--upsampling", "nearest"], "--upsampling: it belongs to --model unet"),
        (["--focus", "off"], "--focus: it belongs to --method cogrnet"),
    ],
)
def test_bad_flags(tiny, tmp_path, flags, message):
    with pytest.raises(UserError, match=message):
        train(tiny, tmp_path, *flags)
    assert not list(tmp_path.rglob("*.pth"))


def test_learning_rate_falls_in_self_training_alone(la_root, tmp_path):
    settings = resolve(
        la.DATASET,
        TINY | {"labelnum": 2, "max_iterations": 15_000},
        explicit={"root_path": la_root, "output_root": tmp_path},
    )
    _, stages = TrainingRun(la.DATASET, settings, torch.device("cpu")).stages()
    pre, self_ = stages["pre_train"](), stages["self_train"]()
    assert [self_.learning_rate(step) for step in (0, 4999, 5000, 9999, 14999)] == pytest.approx(
        [0.01, 0.01, 0.001, 0.001, 0.0001]
    )
    assert pre.learning_rate(14999) == 0.01
    assert [stage.optimizers["student"].defaults["weight_decay"] for stage in (pre, self_)] == [
        1e-3,
        1e-4,
    ]


class Twice(TrainingStage):
    """Two passes of the student before the backward pass."""

    name = "twice"

    def losses(self, batch, step):
        first, second = batch["image"].chunk(2)
        yield StepLoss(self.forward(first).sum() + self.forward(second).sum(), {})


@pytest.mark.usefixtures("published_width")
def test_estimated_memory_is_what_the_losses_keep():
    """A convolution keeps its input (one channel) and its weight, which is the network's own; ReLU
    keeps its output (two channels). Sums keep nothing. Four images of 64 x 16 x 16; 4 parameters,
    their gradients and one moment of the optimiser.
    """
    phase = Twice(Context(nn.Sequential(nn.Conv3d(1, 2, 1), nn.ReLU())))
    memory = step_memory(phase, 2, 2, 1, (64, 16, 16), moments=1)
    assert memory.step_bytes == int(1.1 * 4 * 4 * 64 * 16 * 16 * 3) + 4 * 4 * 3
    assert memory.images == 2
    state = torch.get_rng_state()
    whole, less = (
        step_memory(
            Supervised(Context(net_factory("VNet", egm="none"), LOSS_3D)), 1, 0, 1, (32, 32, 32), 1
        ).step_bytes,
        step_memory(
            Supervised(Context(recomputing(), LOSS_3D)), 1, 0, 1, (32, 32, 32), 1
        ).step_bytes,
    )
    weights = 3 * sum(p.nbytes for p in recomputing().parameters())
    torch.set_rng_state(state)
    step_memory(phase, 2, 2, 1, (64, 16, 16), moments=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert less - weights < 0.6 * (whole - weights)


def test_memory_is_estimated_for_the_edge_guided_unet_although_it_takes_no_small_images():
    stage = Supervised(Context(build("unet", 1, 4, {"egm": "published"})))
    small, large = (
        step_memory(stage, 2, 0, 1, (side, side), moments=1).step_bytes for side in (96, 192)
    )
    fixed = 3 * sum(parameter.nbytes for parameter in stage.student.parameters())
    assert large - fixed == pytest.approx(4 * (small - fixed), abs=4)


def recomputing():
    net = net_factory("VNet", egm="none")
    net.recompute = True
    return net


def test_estimating_memory_takes_none():
    """Nothing of the pass is left, nor of the copy of the network that made it."""
    phase = Supervised(Context(net_factory("VNet", egm="none"), LOSS_3D))
    gc.collect()
    before = sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects())
    step_memory(phase, 1, 0, 1, (32, 32, 32), 1)
    gc.collect()
    # what is left of other tests may go meanwhile, so there may be fewer
    assert sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects()) <= before


@pytest.mark.usefixtures("published_width")
@pytest.mark.long
def test_a_volume_can_be_learnt_by_heart():
    """The edge-guided V-Net reaches Dice 0.95 on a noisy ball that it is shown again and again."""
    places = torch.stack(
        torch.meshgrid(*(torch.arange(side) - side / 2 for side in (32, 32, 16)), indexing="ij")
    )
    label = (places.square().sum(0) < 32)[None].long()
    image = (label + 0.3 * torch.randn(label.shape, generator=torch.Generator().manual_seed(1)))[
        :, None
    ]
    torch.manual_seed(0)
    net, image = (
        place(item, torch.device("cpu"), 3) for item in (net_factory("VNet", mode="test"), image)
    )
    phase = Supervised(Context(net, LOSS_3D))
    optimizer, dice = torch.optim.Adam(net.parameters(), 5e-3), 0.0
    for step in range(100):
        loss = step_loss(phase, {"image": image, "label": label})
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 10 == 9:
            with torch.no_grad():
                found = net.eval()(image).argmax(1)
            net.train()
            dice = 2 * ((found == 1) & (label == 1)).sum() / (found.sum() + label.sum())
            if dice >= 0.95:
                break
    assert dice >= 0.95
