"""What several test files share: the data sets' facts, losses, runs compared, a process stopped in
the middle.
"""

import multiprocessing
import os
import runpy
import signal
import socket
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from commands.train import run
from commands.train_flags import configs_from_flags
from datasets import acdc, kits19, la, lits, pancreas
from datasets.resolve import resolve
from methods.copy_paste import Pasting
from methods.stage_networks import add_scalars
from networks import VNet_la_ega, egm_3d, unet_ega
from training.checkpoint import load
from utils.files import unfinished_path
from utils.losses import Loss, dice_2d, dice_3d

CODE = Path(__file__).parents[1] / "code"
ACDC, LA, PANCREAS, KITS19, LITS = (
    module.DATASET.info for module in (acdc, la, pancreas, kits19, lits)
)
HALF = {"dice": 0.5, "ce": 0.5}
LOSS_2D, LOSS_3D = Loss(HALF, dice_2d), Loss(HALF, dice_3d)
LOSS_BCP = Loss(HALF, partial(dice_2d, mask_background=True))


def train(dataset, root, output, *flags, device="cpu", **numbers):
    """Train with a script's `numbers` and flags; what each stage left behind, see `stages`."""
    script = {"root_path": root, "output_root": output, "device": device, **numbers}
    for config in configs_from_flags(dataset, [str(flag) for flag in flags], script):
        run(dataset, config)
    return stages(output)


def train_any(argv):
    """Call code/train.py with these flags."""
    runpy.run_path(str(CODE / "train.py"))["main"](argv)


def train_two_slices(argv):
    """Call code/CoGRNet_train.py with these flags."""
    runpy.run_path(str(CODE / "CoGRNet_train.py"))["main"](argv)


def from_flags(dataset, numbers, argv):
    """The options by name of a run of a script with these `numbers` and flags."""
    return SimpleNamespace(**configs_from_flags(dataset, argv, numbers)[0].flat())


def from_keywords(dataset, **explicit):
    """The options by name of a run with these explicit values."""
    config = resolve(dataset, method=explicit.get("method"), explicit=explicit)
    return SimpleNamespace(**config.flat())


def stages(output):
    """What each stage left behind: its last and its best checkpoint."""
    return {
        f"{p.parent.name}/{p.name}": load(p)
        for p in sorted(output.rglob("*.pth"))
        if p.name != "previous.pth" and not p.name.startswith(".")
    }


def assert_same(a, b, where=""):
    """Equal bit for bit, through dicts and lists."""
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, list):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}/{i}")
    else:
        assert a == b, where


PLACES = (
    (unet_ega, "WIDTHS"),
    (VNet_la_ega, "WIDTHS"),
    (egm_3d, "ADJUSTED"),
    (egm_3d, "EDGE_CHANNELS"),
)
PUBLISHED_WIDTHS = [(module, name, getattr(module, name)) for module, name in PLACES]


@contextmanager
def narrowed(by=4):
    """U-Net and V-Net a quarter as wide as published, for tests of what happens around them: steps
    and checkpoints cost a tenth.
    """
    with pytest.MonkeyPatch.context() as patch:
        for module, name, width in PUBLISHED_WIDTHS:
            patch.setattr(
                module,
                name,
                width // by if isinstance(width, int) else tuple(one // by for one in width),
            )
        yield


@contextmanager
def signalled(monkeypatch, phase, step, number=signal.SIGTERM):
    """Within the context, step `step` of `phase` ends with a signal to this process."""
    after_step = phase.after_step

    def interrupt(self, at):
        after_step(self, at)
        if at == step:
            os.kill(os.getpid(), number)

    with monkeypatch.context() as patch:
        patch.setattr(phase, "after_step", interrupt)
        yield


def unfinished(path):
    """What a process would have left of `path`, killed while it wrote."""
    return unfinished_path(path)


@dataclass
class Context:
    """A `methods.base.StageContext` whose every part a test can choose; settings that are not given
    have small defaults.
    """

    net: nn.Module
    loss: Loss = LOSS_2D
    pasting: Pasting = acdc.DATASET.pasting
    ema_scope: str = "state"
    dims: int = 2
    classes: int = 4
    length: int = 10
    epoch: int | None = None
    seed: tuple[int, ...] = (3, 1)
    settings: dict = field(default_factory=dict)
    states: dict = field(default_factory=dict)

    @property
    def options(self):
        defaults = {
            "u_weight": 0.5, "ema_decay": 0.99, "mask": "fixed", "box_end": 1 / 3, "teachers": "dual", "static_start": 2,
            "static_step": 1, "static_range": (1, 3), "focus": "published", "class_thresholds": False,
        }  # fmt: skip
        return SimpleNamespace(**{**defaults, **self.settings})

    def network(self, number=0, model=None):
        return self.net

    def state_of(self, stage):
        return self.states.get(stage, {})


def step_scalars(stage, batch, step=0):
    """What a stage reports of a step: "loss" and its terms, which keep no graph, and what it logs."""
    scalars = {}
    for loss in stage.losses(batch, step):
        add_scalars(scalars, {"loss": loss.total, **loss.scalars})
    return {**scalars, **stage.take_logged()}


def step_loss(stage, batch, step=0):
    """The sum of a step's losses, with its graph."""
    return sum(loss.total for loss in stage.losses(batch, step))


class Recorder(nn.Module):
    """A 'network' of one parameter that keeps what it is given; its logits favour the class
    round(3 * pixel).
    """

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(5.0))
        self.seen = []

    def forward(self, x):
        self.seen.append(x.detach().clone())
        return -self.scale * (3 * x - torch.arange(4.0).view(1, 4, 1, 1)).square()


def together(work, *arguments):
    """Run `work(*arguments)` in two processes that are to meet; their exit statuses.

    They are forked, so that torch is loaded once.
    """
    with ExitStack() as stack:
        free = [stack.enter_context(socket.socket()) for _ in range(4)]
        for one in free:
            one.bind(("127.0.0.1", 0))
        ports = [one.getsockname()[1] for one in free]

    def be(rank):
        os.environ |= {
            "MASTER_ADDR": "127.0.0.1",
            "WORLD_SIZE": "2",
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
        }
        torch.set_num_threads(1)
        work(rank, ports, *arguments)

    processes = [
        multiprocessing.get_context("fork").Process(target=be, args=(rank,)) for rank in (0, 1)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(400)
    statuses = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    return statuses
