"""Loggers of tracking services. Those that need a service's package are skipped without it."""

import numpy as np
import pytest

from training import loggers
from training.logged_stage import LoggedStage
from training.loggers import LOGGERS, check_loggers
from training.trackers import SentScalars, allowed_name, check_installed
from utils.errors import UserError

SETTINGS = {"base_lr": 0.125, "patch_size": [32, 32], "init": None, "text": "x" * 1000}
RED = np.full((2, 2, 3), (255, 0, 0), np.uint8)


def stage(folder, start=0) -> LoggedStage:
    return LoggedStage(folder / "my_run" / "self_train" / "log", start=start, settings=SETTINGS)


def log_steps(name, folder, steps, finished=True):
    """Log a loss at every step, as a process does that begins with the first of them."""
    logger = LOGGERS[name](stage(folder, start=steps[0] - 1))
    for step in steps:
        logger.scalars(step, {"train/loss": 1 / step})
    logger.close(finished)


# without a package


def test_a_missing_package_is_one_line_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(loggers.PACKAGES, "wandb", "no_such_package")
    with pytest.raises(
        UserError,
        match=r"^--logger wandb: the package no_such_package is not installed; "
        r"run pip install no_such_package, or choose another --logger$",
    ):
        check_loggers(("csv", "wandb"))


def test_a_folder_of_the_name_of_a_package_is_no_package(tmp_path, monkeypatch):
    (tmp_path / "folder_of_runs").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="not installed"):
        check_installed("wandb", "folder_of_runs")


def test_a_step_that_was_sent_is_not_sent_again(tmp_path):
    sent = SentScalars(tmp_path / "sent.json")
    sent.begin("run")
    sent.unsent(1, {"train/loss": 0.5})
    sent.unsent(2, {"train/loss": 0.25})
    resumed = SentScalars(tmp_path / "sent.json")
    assert resumed.run_id == "run"
    assert resumed.unsent(2, {"train/loss": 0.25}) == {}
    assert resumed.unsent(3, {"train/loss": 0.125}) == {"train/loss": 0.125}


def test_a_validation_is_sent_though_the_losses_of_its_step_were(tmp_path):
    sent = SentScalars(tmp_path / "sent.json")
    sent.begin("run")
    sent.unsent(2, {"train/loss": 0.25})
    assert sent.unsent(2, {"validation/dice": 0.5}) == {"validation/dice": 0.5}


@pytest.mark.parametrize("content", ["", "[]", '{"run_id": "a"}', '{"run_id": "a", "last": 1}'])
def test_a_damaged_record_of_sent_scalars_begins_a_new_run(tmp_path, content):
    (tmp_path / "sent.json").write_text(content)
    assert SentScalars(tmp_path / "sent.json").run_id == ""


def test_names_for_mlflow_keep_letters_and_lose_what_it_refuses():
    assert allowed_name("validation/dice_left lung (upper)") == "validation/dice_left lung _upper_"


# Weights & Biases, offline


@pytest.fixture
def wandb(monkeypatch):
    package = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    package.teardown()  # it reads the environment once
    yield package
    package.teardown()


def wandb_records(folder, kind):
    """The records of that kind in all offline files, in the order of the files."""
    import wandb
    from wandb.proto.wandb_internal_pb2 import Record

    wandb.teardown()  # waits for its process, which writes the files
    records = []
    for path in sorted(folder.rglob("*.wandb")):
        for data in pieces(path.read_bytes()):
            record = Record.FromString(data)
            if record.WhichOneof("record_type") == kind:
                records.append(getattr(record, kind))
    return records


def pieces(content: bytes):
    """The records of a file in LevelDB's log format, after a header of 7 bytes."""
    block = 32768
    position = 7
    data = b""
    while position + 7 <= len(content):
        left = block - position % block
        if left < 7:
            position += left  # the end of a block is empty
            continue
        length = int.from_bytes(content[position + 4 : position + 6], "little")
        part = content[position + 6]
        position += 7
        data += content[position : position + length]
        position += length
        if part in (1, 4):  # a whole record, or its last part
            yield data
            data = b""


def wandb_steps(folder, tag):
    steps = []
    for record in wandb_records(folder, "history"):
        if tag in {item.key or "/".join(item.nested_key) for item in record.item}:
            steps.append(record.step.num)
    return steps


def test_wandb_gets_every_step_once_after_a_kill(wandb, tmp_path):
    log_steps("wandb", tmp_path, steps=(1, 2, 3), finished=False)
    log_steps("wandb", tmp_path, steps=(2, 3, 4))
    assert wandb_steps(tmp_path, "train/loss") == [1, 2, 3, 4]


def test_wandb_continues_the_run_of_a_stage(wandb, tmp_path):
    log_steps("wandb", tmp_path, steps=(1,), finished=False)
    log_steps("wandb", tmp_path, steps=(2,))
    ids = [run.run_id for run in wandb_records(tmp_path, "run")]
    assert len(set(ids)) == 1


def test_wandb_gets_the_settings_and_the_names_of_run_and_stage(wandb, tmp_path):
    log_steps("wandb", tmp_path, steps=(1,))
    run = wandb_records(tmp_path, "run")[0]
    config = {item.key: item.value_json for item in run.config.update}
    assert (run.project, run.display_name) == ("fewlabels", "my_run/self_train")
    assert (config["base_lr"], config["patch_size"]) == ("0.125", "[32,32]")


def test_wandb_gets_pictures(wandb, tmp_path):
    logger = LOGGERS["wandb"](stage(tmp_path))
    logger.pictures(1, {"mixed/image": RED})
    logger.close(finished=True)
    assert len(list(tmp_path.rglob("media/images/mixed/*.png"))) == 1


def test_wandb_without_a_login_is_one_line(wandb, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", "short")
    with pytest.raises(UserError, match=r"^--logger wandb: .*; run wandb login, set WANDB_MODE"):
        LOGGERS["wandb"](stage(tmp_path))


# MLflow, with a folder of files


@pytest.fixture
def mlflow(monkeypatch, tmp_path):
    package = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    return package


def mlflow_run(mlflow):
    """The only run."""
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("fewlabels")
    (run,) = client.search_runs([experiment.experiment_id])
    return run


def test_mlflow_gets_every_step_once_after_a_kill(mlflow, tmp_path):
    log_steps("mlflow", tmp_path, steps=(1, 2, 3), finished=False)
    log_steps("mlflow", tmp_path, steps=(2, 3, 4))
    run = mlflow_run(mlflow)
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "train/loss")
    assert [(metric.step, metric.value) for metric in history] == [
        (1, 1.0), (2, 0.5), (3, 1 / 3), (4, 0.25)
    ]  # fmt: skip


def test_mlflow_gets_the_settings_and_the_names_of_run_and_stage(mlflow, tmp_path):
    log_steps("mlflow", tmp_path, steps=(1,))
    run = mlflow_run(mlflow)
    assert run.info.run_name == "my_run/self_train"
    assert (run.data.params["base_lr"], run.data.params["patch_size"]) == ("0.125", "[32, 32]")


@pytest.mark.parametrize("finished, status", [(True, "FINISHED"), (False, "KILLED")])
def test_mlflow_shows_whether_a_stage_was_finished(mlflow, tmp_path, finished, status):
    log_steps("mlflow", tmp_path, steps=(1,), finished=finished)
    assert mlflow_run(mlflow).info.status == status


def test_mlflow_gets_pictures(mlflow, tmp_path):
    logger = LOGGERS["mlflow"](stage(tmp_path))
    logger.pictures(7, {"mixed/image": RED})
    logger.close(finished=True)
    assert [path.name for path in tmp_path.rglob("*.png")] == ["image_7.png"]


def test_an_address_that_mlflow_cannot_use_is_one_line(mlflow, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://here")
    with pytest.raises(UserError, match=r"^--logger mlflow: [^\n]*check MLFLOW_TRACKING_URI"):
        LOGGERS["mlflow"](stage(tmp_path))
