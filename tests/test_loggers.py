"""Loggers of a stage, the lines of train.log, and a logger that a user adds."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import Context
from torch import nn

from methods.base import TrainingStage, Validation
from training.log import RunLog, StageLog
from training.loggers import LOGGERS, check_loggers
from training.loop import run_stages
from training.stage import Run, StageSetup
from utils.errors import UserError
from utils.losses import StepLoss


class Falling(TrainingStage):
    """A loss that is the square of one weight."""

    name = "falling"

    def losses(self, batch, step):
        square = self.student.weight.square().sum()
        yield StepLoss(square, {"loss_dice": square.detach()})

    def pictures(self):
        image = torch.tensor([[0.0, 1.0]])
        return {"image": image, "label": torch.tensor([[0, 1]])}


def train(folder: Path, loggers: tuple[str, ...], steps: int, scores=(0.25, 0.125)) -> Path:
    """Train `steps` steps with a validation after every second one; return the stage's folder."""
    stage = Falling(Context(nn.Linear(1, 1)))
    left = iter(scores)
    setup = StageSetup(
        stage=stage,
        optimizers={"student": torch.optim.SGD(stage.student.parameters(), lr=0.125, momentum=0.5)},
        steps=steps,
        val_every=2,
        batches=lambda steps: ({} for _ in steps),
        validate=lambda *arguments: Validation(next(left), {"dice": 0.5}),
        learning_rate=lambda step: 0.125,
        seed=(0,),
    )
    run = Run(
        folder,
        best_name=lambda stage: "best.pth",
        about={"settings": {}, "facts": {"name": "ACDC"}, "selection": ""},
        device=torch.device("cpu"),
        dims=2,
        amp=None,
        log=RunLog(folder),
        loggers=loggers,
        log_every=2,
    )
    run_stages(run, {"falling": lambda: setup})
    run.log.close()
    return folder / "falling"


def rows(stage: Path) -> list[list[str]]:
    with open(stage / "log" / "scalars.csv", newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_csv_has_a_row_for_every_scalar_of_every_step(tmp_path):
    header, *values = rows(train(tmp_path, ("csv",), steps=2))
    assert header == ["step", "name", "value"]
    assert [row[:2] for row in values] == [
        *(["1", f"train/{name}"] for name in ("loss", "loss_dice", "learning_rate")),
        *(["2", f"train/{name}"] for name in ("loss", "loss_dice", "learning_rate")),
        ["2", "validation/dice"],
    ]
    losses = [float(row[2]) for row in values if row[1] == "train/loss"]
    # the first step makes w - 0.125 * 2 w of w
    assert losses[1] == pytest.approx(0.75**2 * losses[0], rel=1e-5)


def test_only_the_chosen_loggers_write(tmp_path):
    folder = train(tmp_path, ("csv",), steps=2) / "log"
    assert [path.name for path in folder.iterdir()] == ["scalars.csv"]


def test_a_resumed_csv_has_every_step_once(tmp_path):
    train(tmp_path, ("csv",), steps=2)
    path = tmp_path / "falling" / "log" / "scalars.csv"
    with open(path, "a", encoding="utf-8") as file:
        file.write("3,train/loss,0.5\r\n4,trai")  # of steps that no checkpoint has
    stage = train(tmp_path, ("csv",), steps=4)
    steps = [row[0] for row in rows(stage) if row[1] == "train/loss"]
    assert steps == ["1", "2", "3", "4"]


def test_train_log_has_losses_learning_rate_and_time_left(tmp_path):
    train(tmp_path, (), steps=4)
    log = (tmp_path / "train.log").read_text(encoding="utf-8")
    lines = re.findall(
        r"falling (\d)/4: loss \S+, loss_dice \S+, learning_rate 0.125; \S+ left", log
    )
    assert lines == ["2", "4"]


def test_train_log_names_a_new_best_validation(tmp_path):
    train(tmp_path, (), steps=4)
    log = (tmp_path / "train.log").read_text(encoding="utf-8")
    assert re.findall(r"falling \d/4: val Dice .*", log) == [
        "falling 2/4: val Dice 0.2500 (new best)",
        "falling 4/4: val Dice 0.1250",
    ]


class Kept:
    """A logger that keeps everything in memory."""

    def __init__(self, folder: Path, start: int) -> None:
        self.calls = []
        KEPT.append(self)

    def scalars(self, step, values, prefix):
        self.calls.append((step, prefix, sorted(values)))

    def pictures(self, step, pictures):
        self.calls.append((step, "pictures", {name: p.shape for name, p in pictures.items()}))

    def close(self):
        self.calls.append("closed")


KEPT: list[Kept] = []


def test_a_logger_gets_every_step_every_validation_and_its_pictures(tmp_path, monkeypatch):
    monkeypatch.setitem(LOGGERS, "kept", Kept)
    train(tmp_path, ("kept", "csv"), steps=2)
    names = ["learning_rate", "loss", "loss_dice"]
    assert KEPT[-1].calls == [
        (1, "train", names),
        (2, "train", names),
        (2, "validation", ["dice"]),
        (2, "pictures", {"image": (1, 2, 3), "label": (1, 2, 3)}),
        "closed",
    ]


def test_a_new_logger_is_the_class_of_the_guide_and_a_line(tmp_path, monkeypatch, capsys):
    guide = (Path(__file__).parents[1] / "docs" / "extending.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n# training/loggers.py\n(.*?)```", guide, re.DOTALL)
    namespace = {}
    exec(compile(example, "training/loggers.py", "exec"), namespace)
    monkeypatch.setitem(LOGGERS, "scores", namespace["PrintedScores"])
    train(tmp_path, ("scores",), steps=2)
    assert "falling 2: 0.500\n" in capsys.readouterr().out


def test_pictures_are_colours_and_a_logger_without_them_ignores_them(tmp_path):
    log = StageLog(tmp_path, "falling", start=0, steps=1, loggers=("csv",))
    log.pictures(1, Falling(Context(nn.Linear(1, 1))))
    log.close()
    assert rows(tmp_path) == [["step", "name", "value"]]


def test_an_unknown_logger_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match=r"^--logger wandb: unknown; choose from tensorboard, csv$"):
        check_loggers(("csv", "wandb"))


def test_a_csv_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "log").write_text("a file in the folder's place")
    with pytest.raises(UserError, match=r"scalars.csv: cannot be written .*--output_root"):
        LOGGERS["csv"](tmp_path / "log", 0)


def test_tensorboard_gets_the_pictures(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = LOGGERS["tensorboard"](tmp_path, 0)
    logger.pictures(3, {"image": np.zeros((2, 2, 3), np.uint8)})
    logger.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [event.step for event in events.Images("mixed/image")] == [3]
