"""Loggers that send a stage to a tracking service: Weights & Biases and MLflow.

Their packages are imported when a stage begins that uses them, and are not needed otherwise.
"""

import importlib.util
import json
import os
import re
import textwrap
import time
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from training.logged_stage import REMEDY, LoggedStage
from utils.errors import UserError, writing
from utils.files import replacing
from utils.json_file import read_json
from utils.packages import imported_for, not_installed

PROJECT = "fewlabels"
MOST_PARAMETERS = 100
"""Parameters that MLflow accepts in one call."""
LONGEST_PARAMETER = 500
"""Characters of a parameter that all versions of MLflow accept."""
LONGEST_CAUSE = 300  # characters
WANDB_REMEDY = "run wandb login, set WANDB_MODE=offline, or choose another --logger"
MLFLOW_REMEDY = "check MLFLOW_TRACKING_URI, or choose another --logger"


def check_installed(logger: str, package: str) -> None:
    """Raise UserError if the package that a logger needs is not installed."""
    spec = importlib.util.find_spec(package)
    # without an origin it is only a folder of that name, such as the one that wandb writes
    if spec is None or spec.origin is None:
        raise not_installed("logger", logger, package=package)


@contextmanager
def _reported(
    logger: str, errors: tuple[type[Exception], ...], remedy: str
) -> Generator[None, None, None]:
    """Turn a failure of the tracking service into a UserError."""
    try:
        yield
    except errors as error:
        cause = textwrap.shorten(str(error), LONGEST_CAUSE)
        raise UserError(f"--logger {logger}: {cause}; {remedy}") from None


class SentScalars:
    """A file that records the service's run of a stage, and the last step that was sent by tag.

    A stage that was killed makes the steps after its last checkpoint again. A service cannot delete
    what it has, so these steps are not sent twice.
    """

    def __init__(self, path: Path) -> None:
        """Read the file; a damaged one counts as none."""
        self._path = path
        self.run_id = ""
        self._last: dict[str, int] = {}
        try:
            content = read_json(path)
            self.run_id = str(content["run_id"])
            self._last = {str(tag): int(step) for tag, step in content["last"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            self.run_id = ""

    def begin(self, run_id: str) -> None:
        """Record a new run of the service."""
        self.run_id = run_id
        self._last = {}
        self._write()

    def unsent(self, step: int, tags: Mapping[str, Any]) -> dict[str, Any]:
        """Return the entries that have not been sent for this step, and record them as sent.

        They are recorded first: a process that is killed in between loses a step in the service,
        but sends none twice.
        """
        new = {tag: value for tag, value in tags.items() if step > self._last.get(tag, 0)}
        if new:
            self._last.update(dict.fromkeys(new, step))
            self._write()
        return new

    def _write(self) -> None:
        content = {"run_id": self.run_id, "last": self._last}
        with writing(self._path, REMEDY):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self._path) as unfinished:
                unfinished.write_text(json.dumps(content), encoding="utf-8")


class WandB:
    """Sends a stage to Weights & Biases; a resumed stage continues its run there.

    Project and mode are those of WANDB_PROJECT (default: fewlabels) and WANDB_MODE.
    """

    def __init__(self, stage: LoggedStage) -> None:
        """Begin or continue the stage's run."""
        self._wandb = imported_for("logger", "wandb", package="wandb")
        self._sent = SentScalars(stage.folder / "wandb.json")
        if not self._sent.run_id:
            self._sent.begin(uuid4().hex)
        with self._reported():
            self._run = self._wandb.init(
                project=os.environ.get("WANDB_PROJECT", PROJECT),
                group=stage.run,
                name=f"{stage.run}/{stage.name}",
                id=self._sent.run_id,
                resume="allow",
                dir=str(stage.folder),
                config=dict(stage.settings),
                settings=self._wandb.Settings(console="off"),  # the terminal is the progress bar's
            )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See `Logger`."""
        self._log(step, self._sent.unsent(step, values))

    def pictures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """See `Logger`."""
        new = self._sent.unsent(step, pictures)
        self._log(step, {tag: self._wandb.Image(picture) for tag, picture in new.items()})

    def close(self, finished: bool) -> None:
        """See `Logger`."""
        with self._reported():
            self._run.finish(exit_code=int(not finished))

    def _log(self, step: int, values: Mapping[str, Any]) -> None:
        if values:
            with self._reported():
                self._run.log(dict(values), step=step)

    def _reported(self) -> AbstractContextManager[None]:
        return _reported("wandb", errors=(self._wandb.Error, OSError), remedy=WANDB_REMEDY)


class MLflow:
    """Sends a stage to MLflow; a resumed stage continues its run there.

    MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME choose the server and the experiment (default:
    fewlabels).
    """

    def __init__(self, stage: LoggedStage) -> None:
        """Begin or continue the stage's run."""
        self._mlflow = imported_for("logger", "mlflow", package="mlflow")
        self._sent = SentScalars(stage.folder / "mlflow.json")
        with self._reported():
            self._client = self._mlflow.MlflowClient()
            if self._sent.run_id:
                self._client.update_run(self._sent.run_id, status="RUNNING")
            else:
                self._begin(stage)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See `Logger`."""
        now = int(1000 * time.time())
        metrics: list[Any] = []
        for tag, value in self._sent.unsent(step, values).items():
            metrics.append(self._mlflow.entities.Metric(allowed_name(tag), value, now, step))
        if metrics:
            with self._reported():
                self._client.log_batch(self._sent.run_id, metrics=metrics)

    def pictures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """See `Logger`."""
        for tag, picture in pictures.items():
            with self._reported():
                file = f"{allowed_name(tag)}_{step}.png"
                self._client.log_image(self._sent.run_id, picture, artifact_file=file)

    def close(self, finished: bool) -> None:
        """See `Logger`."""
        status = "KILLED"
        if finished:
            status = "FINISHED"
        with self._reported():
            self._client.set_terminated(self._sent.run_id, status=status)

    def _begin(self, stage: LoggedStage) -> None:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            number = self._client.create_experiment(name)
        else:
            number = experiment.experiment_id
        run = self._client.create_run(number, run_name=f"{stage.run}/{stage.name}")
        parameters: list[Any] = []
        for option, value in stage.settings.items():
            text = str(value)[:LONGEST_PARAMETER]
            parameters.append(self._mlflow.entities.Param(option, text))
        for first in range(0, len(parameters), MOST_PARAMETERS):
            part = parameters[first : first + MOST_PARAMETERS]
            self._client.log_batch(run.info.run_id, params=part)
        self._sent.begin(run.info.run_id)

    def _reported(self) -> AbstractContextManager[None]:
        errors = (self._mlflow.exceptions.MlflowException, OSError)
        return _reported("mlflow", errors=errors, remedy=MLFLOW_REMEDY)


def allowed_name(tag: str) -> str:
    """Return a tag without the characters that MLflow refuses."""
    return re.sub(r"[^\w\-./ :]", "_", tag)
