"""What a method builds a stage of a run from."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from commands.batches import build_sampler
from commands.networks import build_network
from dataloaders.two_stream import StreamSampler
from datasets.base import DatasetSpec
from methods.base import StageSpec
from methods.copy_paste import Pasting
from networks.base import Network
from training.checkpoint import read
from training.config import AnyConfig
from training.device import place
from utils.ema import EmaScope
from utils.losses import Loss

# Random numbers of a stage follow from the run's seed, the stage's number and what they are for.
STAGE_NUMBERS = {"supervised": 0, "pre_train": 1, "self_train": 2}
FOR_BATCHES = 0
FOR_METHOD = 1
FOR_DROPOUT = 2


@dataclass(frozen=True, kw_only=True, eq=False)
class RunStageContext:
    """The `methods.base.StageContext` of a stage of a run, with its length in steps and its draws.

    `folder`: of the run. `labelled`, `unlabelled`: numbers of training cases.
    """

    spec: StageSpec
    dataset: DatasetSpec
    config: AnyConfig
    device: torch.device
    amp: torch.dtype | None
    folder: Path
    labelled: int
    unlabelled: int

    @property
    def options(self) -> Any:
        """The options of the method."""
        return self.config.method

    @property
    def loss(self) -> Loss:
        """The supervised loss of this stage."""
        terms = self.config.optimization.losses
        if self.spec.pretraining:
            terms = self.config.optimization.pre_losses
        return Loss(dict(terms), self.dataset.dice(self.config.data))

    @property
    def pasting(self) -> Pasting:
        """The data set's rules of copy-paste."""
        return self.dataset.pasting

    @property
    def ema_scope(self) -> EmaScope:
        """What an EMA teacher averages on this data set."""
        return self.dataset.ema_scope

    @property
    def dims(self) -> int:
        """Spatial axes of an image."""
        return self.dataset.info.dims

    @property
    def classes(self) -> int:
        """Number of classes, the background included."""
        return self.dataset.info.classes

    @property
    def length(self) -> int:
        """Length of the stage in iterations, or in epochs where the options count epochs."""
        return sum(getattr(self.config.experiment, name) for name in self.spec.lengths)

    @property
    def epoch(self) -> int | None:
        """Steps of an epoch where the options count epochs, otherwise None."""
        if self.config.optimization.unit != "epoch":
            return None
        return self.sampler((0,), range(1)).epoch

    @property
    def steps(self) -> int:
        """Length of the stage in steps."""
        return self.length * (self.epoch or 1)

    @property
    def seed(self) -> tuple[int, ...]:
        """Seed of what the method draws itself."""
        return self.seed_for(FOR_METHOD)

    def seed_for(self, purpose: int) -> tuple[int, ...]:
        """Return a seed for what the stage draws; `purpose` is one of FOR_BATCHES, FOR_METHOD and
        FOR_DROPOUT.
        """
        name = self.spec.name
        number = STAGE_NUMBERS.get(name, zlib.crc32(name.encode()))
        return self.config.experiment.seed, number, purpose

    def sampler(self, seed: tuple[int, ...], steps: range) -> StreamSampler:
        """Return the sampler of the stage's batches of these steps."""
        unlabelled = 0
        if self.spec.uses_unlabelled:
            unlabelled = self.unlabelled
        return build_sampler(
            self.dataset.sampler(self.config),
            self.config.data,
            labelled=self.labelled,
            unlabelled=unlabelled,
            seed=seed,
            steps=steps,
        )

    def network(self, number: int = 0, model: str | None = None) -> nn.Module:
        """Build a network on the device; each `number` has its own first weights, the same at every
        call.

        `model`: another network than that of --model.
        """
        torch.manual_seed(self.config.experiment.seed + number)
        return place(self._build(model), self.device, dims=self.dims, amp=self.amp)

    def _build(self, model: str | None) -> Network:
        name = model or self.config.experiment.model
        return build_network(self.dataset.info, name, options=self.config.flat())

    def state_of(self, stage: str) -> Mapping[str, Any]:
        """Return the state that an earlier stage of this run ended with; empty if there is none."""
        path = self.folder / stage / "last.pth"
        if not path.is_file():
            return {}
        return dict(read(path).stage_state or {})
