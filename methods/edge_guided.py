"""Edge-guided copy-paste with a dynamic and a static teacher (Hsu & Hua, on top of BCP, CVPR 2023).

It extends BCP by three things: an edge-guided module in the network (`--egm`), a box that shrinks
during a stage (`--mask dynamic`) and a second, static teacher: a copy of the student that is
renewed from time to time.

Cost of a self-training step: as BCP, with twice as many teacher passes, and the edge-guided module
in every pass.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from methods.base import Batch, Method, StageContext, StageSpec
from methods.bcp import BCPPretrain, BCPSelfTrain, run_title
from methods.bcp import Options as BCPOptions
from methods.copy_paste import MaskKind
from utils.ema import copy_state
from utils.errors import UserError
from utils.losses import StepLoss

STATIC_TEACHER = "static_teacher"


@dataclass(frozen=True)
class Options(BCPOptions):
    """Options of the edge-guided method."""

    mask: MaskKind = "dynamic"
    """Copy-paste box: dynamic shrinks from 2/3 to box_end of each side during a stage, fixed stays
    at 2/3.
    """
    teachers: Literal["dual", "ema"] = "dual"
    """dual: a dynamic (EMA) and a static teacher; ema: only the dynamic one."""
    static_start: int = 1000
    """Static teacher: iterations (Pancreas: epochs) between two renewals at first."""
    static_step: int = 500
    """Static teacher: by how much a validation lengthens (new best score) or shortens that
    interval.
    """
    static_range: tuple[int, int] = (500, 2000)
    """Static teacher: shortest and longest interval."""

    def check(self) -> None:
        if self.static_start < 1:
            raise UserError(f"--static_start {self.static_start}: must be at least 1")
        if not 0 <= self.static_step < 2**63:
            raise UserError(f"--static_step {self.static_step}: must be at least 0, and below 2^63")
        shortest, longest = self.static_range
        if not 1 <= shortest <= longest:
            raise UserError(
                f"--static_range {shortest} {longest}: give the shortest interval, at least 1, "
                "then the longest"
            )


@dataclass(frozen=True)
class RefreshRule:
    """When the static teacher is renewed.

    The interval between two renewals is `start` at first. A validation that improves the best score
    lengthens it by `step`, any other shortens it by `step`; it stays within `lowest` and `highest`.
    A counter goes up after every iteration (and after its validation, if there was one) and is
    compared with the interval as that validation left it. With `epoch` (steps per epoch) all of
    them count epochs, and the counter goes up before each epoch.
    """

    start: int
    step: int
    lowest: int
    highest: int
    epoch: int | None = None

    def next(self, interval: int, improved: bool) -> int:
        """Return the interval after a validation."""
        changed = interval + self.step if improved else interval - self.step
        return min(max(changed, self.lowest), self.highest)


def refresh_rule(context: StageContext[Options]) -> RefreshRule | None:
    """Return the rule that the static_* flags describe; None without a static teacher."""
    options = context.options
    if options.teachers == "ema":
        return None
    shortest, longest = options.static_range
    return RefreshRule(options.static_start, options.static_step, shortest, longest, context.epoch)


class DualTeacher(BCPSelfTrain[Options]):
    """BCP's self-training with a second, static teacher."""

    former_state = frozenset()

    def __init__(self, context: StageContext[Options]) -> None:
        super().__init__(context)
        self.refresh = refresh_rule(context)
        self.interval = 0
        self.counter = 0
        if self.refresh is not None:
            self.add_teacher(STATIC_TEACHER)
            self.interval = self.refresh.start
            # an epoch is counted before it begins, the first one too
            self.counter = 1 if self.refresh.epoch else 0

    def losses(self, batch: Batch, step: int) -> Iterator[StepLoss]:
        yield from super().losses(batch, step)
        if self.refresh is not None:
            self.log("teacher_interval", self.interval)

    def after_validation(self, improved: bool) -> None:
        if self.refresh is not None:
            self.interval = self.refresh.next(self.interval, improved)

    def after_iteration(self, step: int) -> None:
        """Copy the student's whole state into the static teacher when its interval is over."""
        if self.refresh is None:
            return
        if self.refresh.epoch is not None and (step + 1) % self.refresh.epoch:
            return
        self.counter += 1
        if self.counter >= self.interval:
            copy_state(self.networks[STATIC_TEACHER], self.student)
            self.counter = 0

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "interval": self.interval, "counter": self.counter}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.interval = state["interval"]
        self.counter = state["counter"]


METHOD = Method(
    title=run_title,
    options=Options,
    required={
        "egm": "--model {model} has no edge-guided module; use --method bcp, or another --model"
    },
    stages=(
        StageSpec(BCPPretrain, ("pre_iterations",), uses_unlabelled=False, pretraining=True),
        StageSpec(DualTeacher, ("max_iterations",), starts_from=BCPPretrain.name),
    ),
)
