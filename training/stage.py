"""What the loop gets: a run, the set-up of its stages, and how far a stage has come."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from methods.base import Batch, TrainingStage, Validation
from training.accelerate import Accelerate
from training.checkpoint import Checkpoint
from training.class_watch import WatchedClasses
from training.log import RunLog
from training.loggers import DEFAULT_LOGGERS

# How dropout draws its random numbers. 1, in checkpoints without this entry: teachers and student
# in turn, half by half. 2: the teachers' passes first. 3: also 16 bits per element on the CPU.
DRAWS = 3


@dataclass
class StageSetup:
    """A method's stage with everything that the loop needs to train it.

    `batches(steps)` returns the batches of a range of steps. `validate(network, stopped, step)`
    returns None if `stopped()` became true; every process calls it and must get the same answer.
    If `validate` is None, nothing is validated: checkpoints are written when a validation would be
    due, and the newest network is always the best one. `begin(setup)` is called when the stage
    starts for the first time, not when it resumes.

    `optimizers`: one for each learner. `learning_rate(step)` is the rate of a step;
    `own_learning_rates` has the rates of those learners that do not follow it.

    A validation is due after step t where t + `val_lead` is a multiple of `val_every`, and after
    the last step. With a lead, the one after the last step is an extra that selects nothing and
    does not reach the method (the published Pancreas code validates before the training of every
    twentieth epoch, so it never scores the last one).

    `best_decimals`: decimals to which the best score is rounded before the next score is compared
    with it; None: not rounded.
    """

    stage: TrainingStage[Any]
    optimizers: Mapping[str, torch.optim.Optimizer]
    steps: int
    val_every: int
    batches: Callable[[range], Iterable[Batch]]
    validate: Callable[[nn.Module, Callable[[], bool], int], Validation | None] | None
    learning_rate: Callable[[int], float]
    seed: tuple[int, ...]
    begin: Callable[["StageSetup"], None] = lambda setup: setup.stage.begin()
    own_learning_rates: Mapping[str, Callable[[int], float]] = field(
        default_factory=dict[str, Callable[[int], float]]
    )
    val_lead: int = 0
    best_decimals: int | None = None

    def score_to_beat(self, best_score: float) -> float:
        """Return the score that the next validation must exceed to be an improvement.

        `best_score`: the last score that was one. Codes that store it rounded compare the next one,
        unrounded, with it: after 0.80004, stored as 0.8, a score of 0.80002 is an improvement
        again, and after 0.80006, stored as 0.8001, a score of 0.80008 is none.
        """
        if self.best_decimals is None:
            return best_score
        return round(float(best_score), self.best_decimals)

    def set_learning_rates(self, step: int) -> dict[str, float]:
        """Set the optimisers' rates of step `step`; return the rates to log.

        "learning_rate" is the rate of all learners that have none of their own.
        """
        rate = self.learning_rate(step)
        rates = {"learning_rate": rate}
        for name, optimizer in self.optimizers.items():
            own_rate = rate
            if name in self.own_learning_rates:
                own_rate = self.own_learning_rates[name](step)
                rates[f"learning_rate_{name}"] = own_rate
            for group in optimizer.param_groups:
                group["lr"] = own_rate
        return rates

    def scheduled(self, step: int) -> bool:
        """Return whether a validation is due after `step` steps, the last step aside."""
        return (step + self.val_lead) % self.val_every == 0


@dataclass(frozen=True)
class Run:
    """What the stages of a run have in common.

    `about`: entries of every checkpoint (settings, description of the data set, ...).
    `best_name(stage)`: file name of a stage's best checkpoint. `amp`: the type to autocast to, None
    for float32. `defaults`: default settings, for checkpoints that are older than a setting.
    `check` raises UserError for a checkpoint of other data. Every `read_every` steps the host waits
    for the device, reads the scalars of the steps since then, and asks the other processes for
    signals. Every `log_every` steps train.log gets a line. `loggers`: names from
    `training.loggers`. `keep_validated`: keep a copy of the checkpoint of every validation.
    `watched`: the classes that are warned about if they are lost. `stage_steps`: the length of each
    stage in steps, by name. `logged`: the settings that loggers get. `tags`: by stage, other names
    for some of our tags.
    """

    folder: Path
    best_name: Callable[[str], str]
    about: dict[str, Any]
    device: torch.device
    dims: int
    amp: torch.dtype | None
    log: RunLog
    defaults: dict[str, Any] = field(default_factory=dict[str, Any])
    check: Callable[[Checkpoint], None] = lambda checkpoint: None
    read_every: int = 1
    accelerate: Accelerate = "off"
    loggers: tuple[str, ...] = DEFAULT_LOGGERS
    log_every: int = 20
    keep_validated: bool = False
    watched: WatchedClasses = field(default_factory=WatchedClasses)
    stage_steps: Mapping[str, int] = field(default_factory=dict[str, int])
    logged: Mapping[str, Any] = field(default_factory=dict[str, Any])
    tags: Mapping[str, Mapping[str, str]] = field(default_factory=dict[str, Mapping[str, str]])


@dataclass(frozen=True)
class StageResult:
    """The result of a stage.

    `steps`: iterations of the whole stage. `best_score`: the best validation Dice, None if nothing
    was validated. `best_step`: the iteration of the network in `best`. `best` and `last`: the
    checkpoints. `history`: a mapping for each validation, with its step, score and mean loss.
    """

    name: str
    steps: int
    best_score: float | None
    best_step: int
    best: Path
    last: Path
    history: tuple[Mapping[str, Any], ...]


@dataclass
class Progress:
    """How far a stage has come.

    `step`: steps made. `validated`: the step last validated. `best_score` starts at 0, so that a
    first validation of 0 is no improvement, as published; it is never rounded
    (`StageSetup.score_to_beat`). `history`: an entry for each validation. `draws`: how dropout
    draws its random numbers (`DRAWS`).
    """

    step: int = 0
    validated: int = 0
    best_score: float = 0.0
    best_step: int = 0
    history: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    draws: int = 1
