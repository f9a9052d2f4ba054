"""Loggers of a stage: where its scalars and pictures are written.

`--logger` chooses them by name. A new logger is a class with the methods of
`training.logged_stage.Logger` and a line in `LOGGERS`.
"""

# tensorboardX has no annotations.
# pyright: reportUnknownMemberType=false, reportMissingTypeStubs=false

import csv
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tensorboardX import SummaryWriter, summary

from training.logged_stage import REMEDY, LoggedStage, Logger
from training.trackers import MLflow, WandB, check_installed
from utils.errors import UserError, writing
from utils.files import replacing
from utils.registry import check_name
from utils.shared_memory import check_locks

DEFAULT_LOGGERS = ("tensorboard",)


class TensorBoard:
    """Writes event files for TensorBoard, with the settings and scores for its HParams page.

    They are in the event file of the stage: `SummaryWriter.add_hparams` would make a run of its own
    for them, with none of the curves.
    """

    def __init__(self, stage: LoggedStage) -> None:
        """Continue after `stage.start`: TensorBoard hides what was written after it."""
        check_locks(4)  # the writer has a queue between processes
        self.folder = stage.folder
        with writing(self.folder, REMEDY):
            # The queue is longer than what one step writes: tensorboardX waits for its thread if it
            # is full, and the thread may have ended. The suffix keeps two files apart that would
            # have one name after a change of the clock.
            self._writer = SummaryWriter(
                str(self.folder),
                purge_step=stage.start + 1,
                max_queue=1000,
                filename_suffix=f".{stage.start}",
            )
        self._file: Any = self._writer.file_writer  # tensorboardX has no annotations
        self._events: Any = self._file.event_writer
        settings = simple_settings(stage.settings)
        scores = dict.fromkeys(stage.scores, 0.0)
        summaries: Any = summary.hparams  # pyright: ignore[reportUnknownVariableType]
        experiment, start, self._end = summaries(settings, scores)
        self._file.add_summary(experiment)
        self._file.add_summary(start)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See `Logger`."""
        self._check()
        for tag, value in values.items():
            self._writer.add_scalar(tag, value, step)

    def pictures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """See `Logger`."""
        self._check()
        for tag, picture in pictures.items():
            self._writer.add_image(tag, picture, step, dataformats="HWC")

    def close(self, finished: bool) -> None:
        """See `Logger`."""
        try:
            if self._events._worker.is_alive():
                with writing(self.folder, REMEDY):
                    if finished:
                        self._file.add_summary(self._end)
                    self._writer.close()
        finally:
            # otherwise tensorboardX closes it again at exit, with a traceback on a full disk
            self._events._closed = True

    def _check(self) -> None:
        """Raise UserError if tensorboardX cannot write: its thread then ends without a message."""
        if not self._events._worker.is_alive():
            raise UserError(f"{self.folder}: cannot be written; {REMEDY}")


def simple_settings(settings: Mapping[str, Any]) -> dict[str, bool | float | str]:
    """Return settings as TensorBoard shows them: lists as JSON, without those that are None."""
    simple: dict[str, bool | float | str] = {}
    for name, value in settings.items():
        if isinstance(value, (bool, int, float, str)):
            simple[name] = value
        elif value is not None:
            simple[name] = json.dumps(value)
    return simple


class Csv:
    """Writes scalars.csv with a row per scalar (step, name, value); it has no pictures."""

    def __init__(self, stage: LoggedStage) -> None:
        """Continue after `stage.start`: rows of later steps are removed."""
        self.path = stage.folder / "scalars.csv"
        with writing(self.path, REMEDY):
            stage.folder.mkdir(parents=True, exist_ok=True)
            rows = _rows_until(self.path, stage.start)
            with replacing(self.path) as unfinished:
                unfinished.write_text("", encoding="utf-8")
                self._append(unfinished, [["step", "name", "value"], *rows])

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See `Logger`."""
        rows = [[str(step), tag, str(value)] for tag, value in values.items()]
        with writing(self.path, REMEDY):
            self._append(self.path, rows)

    def pictures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """Ignore pictures."""

    def close(self, finished: bool) -> None:
        """Do nothing: every row is on disk already."""

    def _append(self, path: Path, rows: Iterable[list[str]]) -> None:
        with open(path, "a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)


def _rows_until(path: Path, last: int) -> list[list[str]]:
    """Return the complete rows of scalars.csv up to step `last`; none if there is no file."""
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8", errors="replace") as file:
        rows = list(csv.reader(file))
    return [row for row in rows if len(row) == 3 and row[0].isdecimal() and int(row[0]) <= last]


LOGGERS: dict[str, Callable[[LoggedStage], Logger]] = {
    "tensorboard": TensorBoard,
    "csv": Csv,
    "wandb": WandB,
    "mlflow": MLflow,
}
"""Loggers by name. Each is built when its stage begins or continues."""
PACKAGES = {"wandb": "wandb", "mlflow": "mlflow"}
"""Packages of loggers that are not in requirements.txt."""


def check_loggers(names: Iterable[str]) -> None:
    """Raise UserError for a logger that does not exist, or whose package is not installed."""
    for name in names:
        check_name(LOGGERS, name, flag="--logger")
        if name in PACKAGES:
            check_installed(name, PACKAGES[name])
