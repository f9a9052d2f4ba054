"""What a run says: the terminal, its log file and TensorBoard."""

import logging
import sys
import time
from pathlib import Path

import numpy as np
from tensorboardX import SummaryWriter
from tqdm import tqdm

from training.distributed import is_main
from utils.phase import Phase
from utils.pictures import grey_picture, label_picture
from utils.progress import progress


class RunLog:
    """Log file and terminal of a run; the other processes of a distributed run stay silent."""

    def __init__(self, folder: Path):
        self._logger = logging.getLogger(f"run.{folder}")
        self._logger.propagate = False
        self._logger.setLevel(logging.INFO)
        if is_main() and not self._logger.handlers:
            folder.mkdir(parents=True, exist_ok=True)
            handler = logging.FileHandler(folder / "train.log")
            handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
            self._logger.addHandler(handler)

    def say(self, message: str) -> None:
        if is_main():
            self._logger.info(message)
            tqdm.write(message, file=sys.stdout)
            sys.stdout.flush()


class StageLog:
    """TensorBoard and progress bar of one stage; on resuming, what was written after step `start` is taken back."""

    def __init__(self, folder: Path, name: str, start: int, steps: int):
        self.writer = SummaryWriter(str(folder / "log"), purge_step=start + 1 if start else None) if is_main() else None
        self.bar = progress(total=steps, initial=start, desc=name, unit="it", disable=not is_main())

    def step(self, step: int, scalars: dict[str, float]) -> None:
        """Note what the step that was made as number `step` (from 1) reported."""
        self.bar.set_postfix(loss=f"{scalars['loss']:.4f}", refresh=False)
        self.bar.update()
        self.scalars(step, scalars, "train")

    def scalars(self, step: int, scalars: dict[str, float], group: str) -> None:
        if self.writer:
            for name, value in scalars.items():
                self.writer.add_scalar(f"{group}/{name}", value, step)

    def pictures(self, step: int, phase: Phase) -> None:
        """The last mixed image, what the student made of it, and the (pseudo) label it was held against."""
        if self.writer:
            for name, tensor in phase.pictures().items():
                array = tensor.cpu().numpy()
                picture = grey_picture(array) if name == "image" else label_picture(array.astype(np.int64))
                self.writer.add_image(f"mixed/{name}", picture, step, dataformats="HWC")

    def close(self) -> None:
        self.bar.close()
        if self.writer:
            self.writer.close()


def hours(seconds: float) -> str:
    return time.strftime("%H:%M:%S", time.gmtime(seconds))
