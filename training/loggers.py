"""Loggers of a stage: where its scalars and pictures are written.

`--logger` chooses them by name. A new logger is a class with the methods of `Logger` and a line in
`LOGGERS`.
"""

# tensorboardX has no annotations.
# pyright: reportUnknownMemberType=false, reportMissingTypeStubs=false

import csv
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tensorboardX import SummaryWriter

from utils.errors import UserError, writing
from utils.files import replacing
from utils.registry import check_name
from utils.shared_memory import check_locks

REMEDY = "free space or choose another --output_root, then start the same command again"
DEFAULT_LOGGERS = ("tensorboard",)


class Logger(Protocol):
    """Writes the scalars and pictures of one stage. The loop calls it in one process only."""

    def scalars(self, step: int, values: Mapping[str, float], prefix: str) -> None:
        """Write the scalars of step `step` (from 1); `prefix` is "train" or "validation"."""
        ...

    def pictures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """Write pictures (H, W, 3) uint8 by name."""
        ...

    def close(self) -> None:
        """Write what is not yet on disk."""
        ...


class TensorBoard:
    """Writes event files for TensorBoard."""

    def __init__(self, folder: Path, start: int) -> None:
        """Continue after step `start`: TensorBoard hides what was written after it."""
        check_locks(4)  # the writer has a queue between processes
        self.folder = folder
        purge_step = None
        if start:
            purge_step = start + 1
        with writing(folder, REMEDY):
            # The queue is longer than what one step writes: tensorboardX waits for its thread if it
            # is full, and the thread may have ended. The suffix keeps two files apart that would
            # have one name after a change of the clock.
            self._writer = SummaryWriter(
                str(folder), purge_step=purge_step, max_queue=1000, filename_suffix=f".{start}"
            )
        file_writer: Any = self._writer.file_writer
        self._events = file_writer.event_writer  # tensorboardX has no annotations

    def scalars(self, step: int, values: Mapping[str, float], prefix: str) -> None:
        """See `Logger`."""
        self._check()
        for name, value in values.items():
            self._writer.add_scalar(f"{prefix}/{name}", value, step)

    def pictures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """See `Logger`."""
        self._check()
        for name, picture in pictures.items():
            self._writer.add_image(f"mixed/{name}", picture, step, dataformats="HWC")

    def close(self) -> None:
        """See `Logger`."""
        try:
            if self._events._worker.is_alive():
                with writing(self.folder, REMEDY):
                    self._writer.close()
        finally:
            # otherwise tensorboardX closes it again at exit, with a traceback on a full disk
            self._events._closed = True

    def _check(self) -> None:
        """Raise UserError if tensorboardX cannot write: its thread then ends without a message."""
        if not self._events._worker.is_alive():
            raise UserError(f"{self.folder}: cannot be written; {REMEDY}")


class Csv:
    """Writes scalars.csv with a row per scalar (step, name, value); it has no pictures."""

    def __init__(self, folder: Path, start: int) -> None:
        """Continue after step `start`: rows of later steps are removed."""
        self.path = folder / "scalars.csv"
        with writing(self.path, REMEDY):
            folder.mkdir(parents=True, exist_ok=True)
            rows = _rows_until(self.path, start)
            with replacing(self.path) as unfinished:
                unfinished.write_text("", encoding="utf-8")
                self._append(unfinished, [["step", "name", "value"], *rows])

    def scalars(self, step: int, values: Mapping[str, float], prefix: str) -> None:
        """See `Logger`."""
        rows = [[str(step), f"{prefix}/{name}", str(value)] for name, value in values.items()]
        with writing(self.path, REMEDY):
            self._append(self.path, rows)

    def pictures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """Ignore pictures."""

    def close(self) -> None:
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


LOGGERS: dict[str, Callable[[Path, int], Logger]] = {"tensorboard": TensorBoard, "csv": Csv}
"""Loggers by name. Each is built from its folder and the step to continue after."""


def check_loggers(names: Iterable[str]) -> None:
    """Raise UserError for a logger that does not exist."""
    for name in names:
        check_name(LOGGERS, name, flag="--logger")
