"""Messages and logs of a run: terminal, train.log, progress bar and loggers."""

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from methods.base import TrainingStage
from training.distributed import is_main
from training.logged_stage import REMEDY, SCORES, LoggedStage, Logger
from training.loggers import DEFAULT_LOGGERS, LOGGERS
from training.outside_faults import Watch
from utils.errors import writing
from utils.messages import receiver
from utils.pictures import grey_picture, label_picture
from utils.progress import progress


class _LogFile(logging.FileHandler):
    """A log file whose failure ends the run.

    logging itself would print a traceback at every line and continue.
    """

    def handleError(self, record: logging.LogRecord) -> None:
        with writing(Path(self.baseFilename), REMEDY):
            raise


class RunLog:
    """Log file and terminal of a run; only the main process writes.

    A file that an earlier run of this process left open is closed: it may have been moved.
    """

    def __init__(self, folder: Path) -> None:
        """Append to train.log in `folder`, which is created."""
        self._logger = logging.getLogger(f"run.{folder}")
        self._logger.propagate = False
        self._logger.setLevel(logging.INFO)
        self._receiver = receiver()
        self.close()
        if is_main():
            with writing(folder, REMEDY):
                folder.mkdir(parents=True, exist_ok=True)
                path = folder / "train.log"
                handler = _LogFile(path, encoding="utf-8", errors="backslashreplace")
            handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
            self._logger.addHandler(handler)

    def say(self, message: str) -> None:
        """Write to the log file and to the terminal."""
        if is_main():
            self._logger.info(message)
            self._receiver.receive(message, is_error=False, over_bars=True)

    def note(self, message: str) -> None:
        """Write to the log file only."""
        if is_main():
            self._logger.info(message)

    def close(self) -> None:
        """Close the log file; later messages go to the terminal only."""
        for handler in list(self._logger.handlers):
            self._logger.removeHandler(handler)
            handler.close()


class StageLog:
    """Progress bar and loggers of one stage; only the main process writes."""

    def __init__(
        self,
        folder: Path,
        name: str,
        start: int,
        steps: int,
        loggers: Sequence[str] = DEFAULT_LOGGERS,
        settings: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Continue after step `start` of a stage of `steps` steps, in the stage's folder.

        `settings`: the options that loggers get. `tags`: other names for some of our tags.
        """
        self._tags = dict(tags or {})
        self._finished = False
        self._loggers: list[Logger] = []
        self._watch: Watch | None = None
        if is_main():
            with writing(folder, REMEDY):
                folder.mkdir(parents=True, exist_ok=True)
            logged = LoggedStage(
                folder / "log",
                start=start,
                settings={"stage": name, **(settings or {})},
                scores=tuple(self._tag(score) for score in SCORES),
            )
            for logger in loggers:
                self._loggers.append(LOGGERS[logger](logged))
            # the watch warns from another thread, so it gets this thread's receiver
            warn = partial(receiver().receive, is_error=True, over_bars=True)
            self._watch = Watch(warn, name)
        self.bar: tqdm[Any] = progress(
            total=steps, initial=start, desc=name, unit="it", disable=not is_main()
        )

    def step(self, step: int, scalars: dict[str, float]) -> None:
        """Log the scalars of step number `step` (from 1)."""
        self.bar.set_postfix_str(f"loss={scalars['loss']:.4f}", refresh=False)
        if self._watch is not None:
            self._watch.beat()
        self.scalars(step, scalars, prefix="train")

    def scalars(self, step: int, values: dict[str, float], prefix: str) -> None:
        """Log scalars under `<prefix>/<name>`, or under the other name of this tag."""
        tagged = {self._tag(f"{prefix}/{name}"): value for name, value in values.items()}
        for logger in self._loggers:
            logger.scalars(step, tagged)

    def pictures(self, step: int, stage: TrainingStage[Any]) -> None:
        """Log the last mixed image, the student's prediction and its (pseudo) label."""
        if not self._loggers:
            return
        pictures: dict[str, np.ndarray] = {}
        for name, tensor in stage.pictures().items():
            array = tensor.cpu().numpy()
            if name == "image":
                picture = grey_picture(array)
            else:
                picture = label_picture(array.astype(np.int64))
            pictures[f"mixed/{name}"] = picture
        for logger in self._loggers:
            logger.pictures(step, pictures)

    def finish(self) -> None:
        """Record that the stage has made its last step."""
        self._finished = True

    def close(self) -> None:
        """Close the bar, the watch and all loggers."""
        self.bar.close()
        if self._watch is not None:
            self._watch.close()
        for logger in self._loggers:
            logger.close(self._finished)

    def _tag(self, tag: str) -> str:
        return self._tags.get(tag, tag)


def hours(seconds: float) -> str:
    """Return a duration as hours:minutes:seconds; there may be more than 24 hours."""
    whole_minutes, rest = divmod(int(seconds), 60)
    return f"{whole_minutes // 60:02d}:{whole_minutes % 60:02d}:{rest:02d}"
