"""What a run says: the terminal, its log file and TensorBoard."""

import logging
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tensorboardX import SummaryWriter

from methods.base import TrainingStage
from training.distributed import is_main
from training.faults import Watch
from utils.errors import UserError, writing
from utils.messages import receiver
from utils.pictures import grey_picture, label_picture
from utils.progress import progress
from utils.shared_memory import check_locks

MEND = "free space or name another place with --output_root, then start the same command again"


class _LogFile(logging.FileHandler):
    """A log file whose failure ends the run like any other; logging would print a traceback at every line and go on."""

    def handleError(self, record: logging.LogRecord) -> None:
        with writing(Path(self.baseFilename), MEND):
            raise


class RunLog:
    """Log file and terminal of a run; the other processes of a distributed run stay silent.

    The file is that of the newest log of a folder: one that an earlier run of this process left open may have been moved meanwhile.
    """

    def __init__(self, folder: Path):
        self._logger = logging.getLogger(f"run.{folder}")
        self._logger.propagate = False
        self._logger.setLevel(logging.INFO)
        self._receiver = receiver()
        self.close()
        if is_main():
            with writing(folder, MEND):
                folder.mkdir(parents=True, exist_ok=True)
                path = folder / "train.log"
                handler = _LogFile(path, encoding="utf-8", errors="backslashreplace")
            handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
            self._logger.addHandler(handler)

    def say(self, message: str) -> None:
        if is_main():
            self._logger.info(message)
            self._receiver.receive(message, is_error=False, over_bars=True)

    def close(self) -> None:
        """Close the log file; what is said afterwards goes to the terminal only."""
        for handler in list(self._logger.handlers):
            self._logger.removeHandler(handler)
            handler.close()


class StageLog:
    """TensorBoard and progress bar of one stage; on resuming, what was written after step `start` is taken back."""

    def __init__(self, folder: Path, name: str, start: int, steps: int):
        self.folder = folder / "log"
        self._writer: SummaryWriter | None = None
        self._events: Any = None  # tensorboardX's own, which is not annotated
        if is_main():
            check_locks(4)  # TensorBoard's writer has a queue between processes
            with writing(self.folder, MEND):
                # A queue that one step never fills: on a full one tensorboardX waits for its thread, which may have died meanwhile. The
                # ending keeps two files apart that a clock put back would give one name.
                purge = start + 1 if start else None
                ending = f".{start}"
                self._writer = SummaryWriter(
                    str(self.folder), purge_step=purge, max_queue=1000, filename_suffix=ending
                )
                file_writer: Any = self._writer.file_writer
                self._events = file_writer.event_writer
        warn = partial(receiver().receive, is_error=True, over_bars=True)
        self._watch = Watch(warn, name) if is_main() else None  # it warns from another thread
        self.bar = progress(total=steps, initial=start, desc=name, unit="it", disable=not is_main())

    def step(self, step: int, scalars: dict[str, float]) -> None:
        """Note what the step that was made as number `step` (from 1) reported."""
        self.bar.set_postfix(loss=f"{scalars['loss']:.4f}", refresh=False)
        if self._watch:
            self._watch.beat()
        self.scalars(step, scalars, "train")

    def scalars(self, step: int, scalars: dict[str, float], group: str) -> None:
        if self._writer:
            self._check()
            for name, value in scalars.items():
                self._writer.add_scalar(f"{group}/{name}", value, step)

    def pictures(self, step: int, stage: TrainingStage) -> None:
        """The last mixed image, what the student made of it, and the (pseudo) label it was held against."""
        if self._writer:
            self._check()
            for name, tensor in stage.pictures().items():
                array = tensor.cpu().numpy()
                picture = (
                    grey_picture(array)
                    if name == "image"
                    else label_picture(array.astype(np.int64))
                )
                self._writer.add_image(f"mixed/{name}", picture, step, dataformats="HWC")

    def close(self) -> None:
        self.bar.close()
        if self._watch:
            self._watch.close()
        if self._writer:
            try:
                if self._events._worker.is_alive():
                    with writing(self.folder, MEND):
                        self._writer.close()
            finally:
                self._events._closed = True  # or tensorboardX closes it again when Python ends, with a traceback on a full disk

    def _check(self) -> None:
        """tensorboardX writes in a thread that ends where it cannot write (a full disk), and says nothing."""
        if not self._events._worker.is_alive():
            raise UserError(f"{self.folder}: cannot be written; {MEND}")


def hours(seconds: float) -> str:
    """Hours, minutes and seconds, as many hours as there are."""
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{seconds:02d}"
