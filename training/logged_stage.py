"""What a logger is, and the description of the stage that it gets."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

REMEDY = "free space or choose another --output_root, then start the same command again"
SCORES = ("validation/best_dice", "validation/dice")
"""Our tags of the scalars that measure how good a network is."""


@dataclass(frozen=True)
class LoggedStage:
    """A stage of a run, as its loggers get it.

    `folder`: `<run>/<stage>/log`, for the files of loggers. `start`: the stage continues after this
    step. `settings`: the options that decide what is computed, as plain types. `scores`: tags of
    the scalars that measure how good the network is.
    """

    folder: Path
    start: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    scores: tuple[str, ...] = SCORES

    @property
    def name(self) -> str:
        """Name of the stage."""
        return self.folder.parent.name

    @property
    def run(self) -> str:
        """Name of the run's folder."""
        return self.folder.parent.parent.name


class Logger(Protocol):
    """Writes the scalars and pictures of one stage. The loop calls it in one process only."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write the scalars of step `step` (from 1) by their tags, such as "train/loss"."""
        ...

    def pictures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """Write pictures (H, W, 3) uint8 by their tags, such as "mixed/image"."""
        ...

    def close(self, finished: bool) -> None:
        """Write what is not yet on disk. `finished`: the stage has made its last step."""
        ...
