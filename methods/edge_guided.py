"""Edge-guided copy-paste with a dynamic and a static teacher (Hsu & Hua, on top of BCP, CVPR 2023)."""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from methods.copy_paste import CopyPaste, CopyPastePretrain, Pasting, paste
from utils.ema import Ema, EmaScope, copy_state
from utils.errors import UserError
from utils.losses import Loss
from utils.masks import MaskKind
from utils.phase import Batch, Losses, Phase, Plan, arrived, halves, unhalved
from utils.schedules import consistency_weight


@dataclass(frozen=True)
class TeacherOptions:
    u_weight: float = 0.5
    """Weight of the loss on pseudo labels."""
    ema_decay: float = 0.99
    """Decay of the dynamic teacher."""

    def check(self) -> None:
        if not 0 <= self.u_weight < 2**63:
            raise UserError(f"--u_weight {self.u_weight}: must be at least 0")
        if not 0 <= self.ema_decay <= 1:
            raise UserError(f"--ema_decay {self.ema_decay}: must lie between 0 and 1")


@dataclass(frozen=True)
class Options(TeacherOptions):
    mask: MaskKind = "dynamic"
    """Copy-paste box: dynamic shrinks from 2/3 to box_end of each side, fixed stays at 2/3."""
    box_end: float = 1 / 3
    """Share of each side that a dynamic box has at a stage's end."""
    teachers: Literal["dual", "ema"] = "dual"
    """dual: dynamic (EMA) and static teacher; ema: the dynamic one alone."""
    static_start: int = 1000
    """Static teacher: iterations (Pancreas: epochs) between two refreshes at first."""
    static_step: int = 500
    """Static teacher: by how much a validation lengthens (best score improved) or shortens that interval."""
    static_range: tuple[int, int] = (500, 2000)
    """Static teacher: shortest and longest interval."""

    def check(self) -> None:
        if not 0 < self.box_end <= 2 / 3:
            raise UserError(
                f"--box_end {self.box_end}: must lie above 0 and at most at 2/3, where the box starts"
            )
        if self.static_start < 1:
            raise UserError(f"--static_start {self.static_start}: must be at least 1")
        if not 0 <= self.static_step < 2**63:
            raise UserError(f"--static_step {self.static_step}: must be at least 0, and below 2^63")
        shortest, longest = self.static_range
        if not 1 <= shortest <= longest:
            raise UserError(
                f"--static_range {shortest} {longest}: give the shortest interval, at least 1, then the longest"
            )


PRESET: dict = {}
REQUIRED = {
    "egm": "--model {model} has no edge-guided module; use --method bcp --mask dynamic --teachers dual to train it without edges, "
    "or another --model"
}


@dataclass(frozen=True)
class RefreshRule:
    """Iterations between two refreshes of the static teacher: `start` at first, then `step` more after a validation that improved the
    best score, `step` fewer after one that did not, always within `lowest`..`highest`.

    A counter goes up after every iteration (and after its validation, if there was one) and is compared with the interval as that
    validation left it. With `epoch`, the number of steps of one, all four count epochs, and so does the counter, before each epoch.
    """

    start: int
    step: int
    lowest: int
    highest: int
    epoch: int | None = None

    def next(self, interval: int, improved: bool) -> int:
        return min(
            max(interval + (self.step if improved else -self.step), self.lowest), self.highest
        )


class DualTeacher(Phase):
    """The dynamic teacher is an exponential moving average of the student; the static one (none if `refresh` is None) a copy, renewed
    from time to time. Both look at the unlabelled images in training mode; the mean of their logits gives the pseudo label."""

    name = "self_train"

    def __init__(
        self,
        student: nn.Module,
        loss: Loss,
        pasting: Pasting,
        copy_paste: CopyPaste | None,
        u_weight: float,
        ema_decay: float,
        ema_scope: EmaScope,
        refresh: RefreshRule | None,
    ):
        super().__init__(student=student)
        self.loss, self.pasting, self.copy_paste, self.u_weight = (
            loss,
            pasting,
            copy_paste,
            u_weight,
        )
        self.ema_decay, self.refresh = ema_decay, refresh
        self.interval = refresh.start if refresh else 0
        self.counter = (
            1 if refresh and refresh.epoch else 0
        )  # an epoch is counted before it begins, the first one too
        for teacher in ("ema_teacher", *(["static_teacher"] if refresh else [])):
            self.networks[teacher] = copy.deepcopy(student).requires_grad_(False).train()
        self.ema = Ema(self.networks["ema_teacher"], student, ema_scope)

    @property
    def teachers(self) -> list[nn.Module]:
        return [net for name, net in self.networks.items() if name != "student"]

    def begin(self) -> None:
        for teacher in self.teachers:
            copy_state(teacher, self.student)

    @torch.no_grad()
    def pseudo_label(self, image: Tensor) -> Callable[[], Tensor]:
        """A call that gives the pseudo label (N, ...) of unlabelled images (N, C, ...)."""
        teachers = [name for name in self.networks if name not in self.learners]
        logits = [unhalved(self.call(name, image)) for name in teachers]
        return self.pasting.pseudo_label(sum(logits) / len(logits))

    def losses(self, batch: Batch, step: int) -> Losses | Iterator[Losses]:
        """Both mixed images, one after the other. The teachers come first and pseudo labels are asked for last, so that their way
        through the host overlaps with the student's passes."""
        labelled, unlabelled = batch["image"].split(len(batch["label"]))
        mask = self.copy_paste.mask(labelled, step)
        pseudo_labels = [self.pseudo_label(half) for half in halves(unlabelled)]
        true_halves = list(zip(halves(labelled), halves(batch["label"]), strict=True))[
            :: -1 if self.pasting.crossed else 1
        ]
        pairs = zip(
            true_halves,
            halves(unlabelled),
            pseudo_labels,
            self.pasting.unlabelled_outside,
            strict=True,
        )
        for (image, label), other, pseudo_label, other_outside in pairs:
            mixed = paste(
                *((other, image) if other_outside else (image, other)), mask
            )  # (N / 4, C, ...)
            targets, weights = (label, pseudo_label), (1.0, self.u_weight)
            if other_outside:
                targets, weights = targets[::-1], weights[::-1]
            logits, scalars = self.scored(mixed, self.loss.of_mixed, *targets, mask, *weights)
            self.show(mixed, logits, paste(*arrived(targets), mask))
            yield scalars
        yield {
            "consistency_weight": consistency_weight(step),
            "box_side": self.copy_paste.sides(mask.shape, step)[0],
        }
        if self.refresh:
            yield {"teacher_interval": self.interval}

    def after_step(self, step: int) -> None:
        self.ema.update(self.ema_decay)

    def after_validation(self, improved: bool) -> None:
        if self.refresh:
            self.interval = self.refresh.next(self.interval, improved)

    def after_iteration(self, step: int) -> None:
        """The static teacher takes the student's whole state once its interval is over."""
        if self.refresh is None or (step + 1) % (self.refresh.epoch or 1):
            return
        self.counter += 1
        if self.counter >= self.interval:
            copy_state(self.networks["static_teacher"], self.student)
            self.counter = 0

    def state_dict(self) -> dict:
        return {**super().state_dict(), "interval": self.interval, "counter": self.counter}

    def load_state_dict(self, state: Mapping) -> None:
        super().load_state_dict(state)
        self.interval, self.counter = state["interval"], state["counter"]


def stages(frame) -> list[Plan]:
    """Pre-training among the labelled cases, then self-training by the teachers; `frame`: see `programs.training.Frame`."""
    s, page = frame.settings, frame.page

    def pretrain() -> Phase:
        return CopyPastePretrain(
            frame.network(),
            frame.loss(pretraining=True),
            page.pasting,
            box(CopyPastePretrain, s.pre_iterations),
        )

    def selftrain() -> Phase:
        refresh = (
            RefreshRule(s.static_start, s.static_step, *s.static_range, frame.epoch(True))
            if s.teachers == "dual"
            else None
        )
        copy_paste = box(DualTeacher, s.max_iterations)
        return DualTeacher(
            frame.network(),
            frame.loss(),
            page.pasting,
            copy_paste,
            s.u_weight,
            s.ema_decay,
            page.ema_scope,
            refresh,
        )

    def box(phase: type[Phase], length: int) -> CopyPaste:
        return CopyPaste(
            s.mask, s.box_end, length, frame.seed(phase.name, 1), frame.epoch(phase is DualTeacher)
        )

    return [
        Plan(CopyPastePretrain, pretrain, s.pre_iterations, unlabelled=False, pretraining=True),
        Plan(DualTeacher, selftrain, s.max_iterations, after=CopyPastePretrain.name),
    ]


def title(settings: Mapping) -> str:
    """What a run is called: BCP and what was added to it. The box is named only where it is not the one that goes with the rest."""
    edges = settings.get("egm", "none") != "none"
    dual = settings.get("teachers") == "dual"
    dynamic = settings.get("mask") == "dynamic"
    words = ["edge-guided BCP" if edges else "BCP"]
    if dual:
        words.append("dual teacher")
    if dynamic and not (edges or dual):
        words.append("dynamic box")
    if not dynamic and (edges or dual):
        words.append("fixed box")
    return ", ".join(words)
