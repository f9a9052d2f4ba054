"""Loggers of a stage, the lines of train.log, and a logger that a user adds."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import Context
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams.api_pb2 import ListSessionGroupsRequest, Status
from tensorboard.plugins.hparams.backend_context import Context as HParamsContext
from tensorboard.plugins.hparams.list_session_groups import Handler
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch import nn

from methods.base import TrainingStage, Validation
from training.log import RunLog, StageLog
from training.logged_stage import LoggedStage
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


def train(
    folder: Path, loggers: tuple[str, ...], steps: int, scores=(0.25, 0.125), tags=None
) -> Path:
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
        logged={"dataset": "ACDC", "base_lr": 0.125, "losses": [["dice", 0.5]], "init": None},
        tags={"falling": tags or {}},
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
        ["2", "validation/best_dice"],
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

    def __init__(self, stage: LoggedStage) -> None:
        self.stage = stage
        self.calls = []
        KEPT.append(self)

    def scalars(self, step, values):
        self.calls.append((step, sorted(values)))

    def pictures(self, step, pictures):
        self.calls.append((step, "pictures", {name: p.shape for name, p in pictures.items()}))

    def close(self, finished):
        self.calls.append("finished" if finished else "interrupted")


KEPT: list[Kept] = []


def test_a_logger_gets_every_step_every_validation_and_its_pictures(tmp_path, monkeypatch):
    monkeypatch.setitem(LOGGERS, "kept", Kept)
    train(tmp_path, ("kept", "csv"), steps=2)
    names = ["train/learning_rate", "train/loss", "train/loss_dice"]
    assert KEPT[-1].calls == [
        (1, names),
        (2, names),
        (2, ["validation/best_dice", "validation/dice"]),
        (2, "pictures", {"mixed/image": (1, 2, 3), "mixed/label": (1, 2, 3)}),
        "finished",
    ]


def test_a_logger_gets_the_settings_and_the_names_of_run_and_stage(tmp_path, monkeypatch):
    monkeypatch.setitem(LOGGERS, "kept", Kept)
    train(tmp_path / "my_run", ("kept",), steps=2)
    stage = KEPT[-1].stage
    assert (stage.run, stage.name, stage.start) == ("my_run", "falling", 0)
    assert (stage.settings["stage"], stage.settings["base_lr"]) == ("falling", 0.125)


def test_a_logger_is_closed_as_interrupted_if_the_stage_fails(tmp_path, monkeypatch):
    monkeypatch.setitem(LOGGERS, "kept", Kept)
    with pytest.raises(StopIteration):
        train(tmp_path, ("kept",), steps=4, scores=(0.25,))
    assert KEPT[-1].calls[-1] == "interrupted"


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
    with pytest.raises(
        UserError, match=r"^--logger neptune: unknown; choose from .*csv, wandb, mlflow"
    ):
        check_loggers(("csv", "neptune"))


def test_a_csv_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "log").write_text("a file in the folder's place")
    with pytest.raises(UserError, match=r"scalars.csv: cannot be written .*--output_root"):
        LOGGERS["csv"](LoggedStage(tmp_path / "log"))


def test_best_dice_is_the_best_score_so_far(tmp_path):
    stage = train(tmp_path, ("csv",), steps=4, scores=(0.25, 0.125))
    best = [row[2] for row in rows(stage) if row[1] == "validation/best_dice"]
    assert best == ["0.25", "0.25"]


def test_tags_are_replaced_by_their_other_names(tmp_path):
    tags = {"train/loss": "info/total_loss", "validation/dice": "info/val_mean_dice"}
    stage = train(tmp_path, ("csv",), steps=2, tags=tags)
    assert [row[1] for row in rows(stage) if row[0] == "2"] == [
        "info/total_loss",
        "train/loss_dice",
        "train/learning_rate",
        "info/val_mean_dice",
        "validation/best_dice",
    ]


# TensorBoard


def events(folder: Path) -> EventAccumulator:
    """What TensorBoard shows of a folder of event files."""
    return EventAccumulator(str(folder)).Reload()


def plugin_data(folder: Path, tag: str) -> HParamsPluginData:
    """Content of a tag of TensorBoard's HParams page."""
    metadata = events(folder).SummaryMetadata(f"_hparams_/{tag}")
    return HParamsPluginData.FromString(metadata.plugin_data.content)


def test_tensorboard_gets_the_pictures(tmp_path):
    logger = LOGGERS["tensorboard"](LoggedStage(tmp_path))
    logger.pictures(3, {"mixed/image": np.zeros((2, 2, 3), np.uint8)})
    logger.close(finished=True)
    assert [event.step for event in events(tmp_path).Images("mixed/image")] == [3]


def test_tensorboard_has_every_step_once_after_a_kill_before_the_first_checkpoint(tmp_path):
    for steps in ((1, 2), (1, 2, 3)):
        logger = LOGGERS["tensorboard"](LoggedStage(tmp_path))
        for step in steps:
            logger.scalars(step, {"train/loss": 0.5})
        logger.close(finished=False)
    assert [event.step for event in events(tmp_path).Scalars("train/loss")] == [1, 2, 3]


def test_tensorboard_shows_the_settings_as_hyperparameters(tmp_path):
    folder = train(tmp_path, ("tensorboard",), steps=2) / "log"
    settings = plugin_data(folder, "session_start_info").session_start_info.hparams
    assert sorted(settings) == ["base_lr", "dataset", "losses", "stage"]
    assert settings["base_lr"].number_value == 0.125
    assert settings["losses"].string_value == '[["dice", 0.5]]'


def test_the_scores_of_the_hyperparameters_are_scalars_of_the_stage(tmp_path):
    tags = {"validation/dice": "val_dice"}
    folder = train(tmp_path, ("tensorboard",), steps=4, tags=tags) / "log"
    metrics = plugin_data(folder, "experiment").experiment.metric_infos
    assert [metric.name.tag for metric in metrics] == ["validation/best_dice", "val_dice"]
    scores = [events(folder).Scalars(metric.name.tag)[-1].value for metric in metrics]
    assert scores == [0.25, 0.5]  # the best score, and the scalar of the last validation


def test_hyperparameters_make_no_further_run(tmp_path):
    folder = train(tmp_path, ("tensorboard",), steps=2) / "log"
    assert [path.suffix for path in folder.rglob("*")] == [".0"]


def test_the_hyperparameters_of_a_finished_stage_are_of_a_success(tmp_path):
    folder = train(tmp_path, ("tensorboard",), steps=2) / "log"
    assert plugin_data(folder, "session_end_info").session_end_info.status == 1


def test_tensorboard_has_one_session_of_hyperparameters_after_a_resume(tmp_path):
    folder = train(tmp_path, ("tensorboard",), steps=2) / "log"
    train(tmp_path, ("tensorboard",), steps=4)
    assert len(list(folder.iterdir())) == 2
    curves = EventMultiplexer({"run/falling": str(folder)}).Reload()
    context = TBContext(data_provider=MultiplexerDataProvider(curves, ""))
    statuses = [Status.STATUS_SUCCESS]
    request = ListSessionGroupsRequest(slice_size=9, allowed_statuses=statuses)
    page = Handler(RequestContext(), HParamsContext(context), "", request).run()
    ((session,),) = [group.sessions for group in page.session_groups]
    scores = {value.name.tag: value.value for value in session.metric_values}
    assert scores["validation/best_dice"] == 0.25
