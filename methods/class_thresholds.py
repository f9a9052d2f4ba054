"""Confidence thresholds of pseudo labels, one for all classes or one for each class.

With `--class_thresholds` the threshold of a class follows the network's running mean confidence in
it, as in FreeMatch (Wang et al., ICLR 2023): classes that the network is less sure of, which are
mostly small ones, get a lower threshold. FreeMatch takes the mean probability of a class over all
images. Over all pixels that would be the size of the class, so here the mean is over the pixels
that are predicted as this class.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed
from torch import Tensor

from methods.base import StageContext, TrainingStage
from utils.errors import UserError

DECAY = 0.999
"""Decay of the running means, as in FreeMatch."""
STATE = "class_confidence"
"""Name of the running means in the state of a stage."""


@dataclass(frozen=True)
class ConfidenceOptions:
    """Options of methods that learn confident pseudo labels."""

    confidence: float = 0.95
    """Smallest probability at which a pseudo label is learned."""
    class_thresholds: bool = False
    """A threshold for each class: --confidence times the running mean confidence of the class,
    divided by that of the class with the highest mean. The published codes have one threshold."""

    def check(self) -> None:
        if not 0 <= self.confidence <= 1:
            raise UserError(f"--confidence {self.confidence}: must lie between 0 and 1")


ConfidentOptionsT = TypeVar("ConfidentOptionsT", bound=ConfidenceOptions)


class ClassThresholds:
    """Decides which pixels of a pseudo label are learned.

    `means` (K,): the running mean confidence of each class, equal at first. A class that no pixel
    of a step is predicted as keeps its mean.
    """

    def __init__(self, options: ConfidenceOptions, classes: int) -> None:
        self.options = options
        self.means = torch.full((classes,), 1 / classes)
        self._seen: Tensor | None = None

    def trusted(self, confidence: Tensor, label: Tensor) -> Tensor:
        """Return a mask (U, ...), 1.0 where a pseudo label (U, ...) with this confidence (U, ...)
        is learned.
        """
        if not self.options.class_thresholds:
            return (confidence >= self.options.confidence).float()
        means = self.means.to(confidence.device)
        thresholds = self.options.confidence * means / means.max()  # (K,)
        return (confidence >= thresholds[label]).float()

    @torch.no_grad()
    def see(self, confidence: Tensor, label: Tensor) -> None:
        """Keep the size and the confidence of each class for `update`; shapes as in `trusted`."""
        if not self.options.class_thresholds:
            return
        rows: list[Tensor] = []
        for number in range(len(self.means)):
            is_class = (label == number).to(confidence.dtype)
            rows.append(torch.stack([is_class.sum(), (is_class * confidence).sum()]))
        self._seen = torch.stack(rows)  # (K, 2): number of pixels, sum of their confidences

    @torch.no_grad()
    def update(self) -> None:
        """Move the means to what the last step has shown in all processes."""
        seen = self._seen
        if seen is None:
            return
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(seen)  # pyright: ignore[reportUnknownMemberType]
        counts, sums = seen.unbind(1)
        means = self.means.to(seen)
        moved = DECAY * means + (1 - DECAY) * sums / counts.clamp_min(1)
        self.means = torch.where(counts > 0, moved, means)

    def state(self) -> dict[str, Any]:
        """Return the entry of a stage's state; none without `--class_thresholds`."""
        if not self.options.class_thresholds:
            return {}
        return {STATE: self.means}

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned, from a whole stage's state."""
        if STATE in state:
            self.means = state[STATE]


class ConfidentStage(TrainingStage[ConfidentOptionsT]):
    """A stage that learns confident pseudo labels; its checkpoints keep the thresholds."""

    def __init__(self, context: StageContext[ConfidentOptionsT]) -> None:
        super().__init__(context)
        self.thresholds = ClassThresholds(self.options, context.classes)

    def after_step(self, step: int) -> None:
        self.thresholds.update()

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), **self.thresholds.state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.thresholds.load(state)
