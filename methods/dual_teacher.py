"""Self-training of a student by two teachers and bidirectional copy-paste (Hsu & Hua; with the EMA teacher alone it is BCP, CVPR 2023)."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from methods.copy_paste import CopyPaste, paste
from methods.objective import Objective
from utils.ema import EmaScope, copy_state, ema_update
from utils.losses import mix_loss
from utils.phase import Batch, Phase, halves
from utils.ramps import consistency_weight


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
        return min(max(interval + (self.step if improved else -self.step), self.lowest), self.highest)


class DualTeacher(Phase):
    """The dynamic teacher is an exponential moving average of the student; the static one (none if `refresh` is None) a copy, renewed
    from time to time. Both look at the unlabelled images in training mode; the mean of their logits gives the pseudo label."""

    name = "self_train"

    def __init__(
        self,
        student: nn.Module,
        objective: Objective,
        copy_paste: CopyPaste,
        u_weight: float,
        ema_decay: float,
        ema_scope: EmaScope,
        refresh: RefreshRule | None,
    ):
        super().__init__(student)
        self.objective, self.copy_paste, self.u_weight = objective, copy_paste, u_weight
        self.ema_decay, self.ema_scope, self.refresh = ema_decay, ema_scope, refresh
        self.interval = refresh.start if refresh else 0
        self.counter = 1 if refresh and refresh.epoch else 0  # an epoch is counted before it begins, the first one too
        for teacher in ("ema_teacher", *(["static_teacher"] if refresh else [])):
            self.networks[teacher] = copy.deepcopy(student).requires_grad_(False).train()

    @property
    def teachers(self) -> list[nn.Module]:
        return [net for name, net in self.networks.items() if name != "student"]

    def reset_teachers(self) -> None:
        """Both teachers become the student: the start from a pre-trained network."""
        for teacher in self.teachers:
            copy_state(teacher, self.student)

    @torch.no_grad()
    def pseudo_label(self, image: Tensor) -> Tensor:
        """Pseudo label (N, ...) of an unlabelled half (N, 1, ...)."""
        logits = [teacher(image) for teacher in self.teachers]
        return self.objective.pseudo_label(sum(logits) / len(logits))

    def losses(self, batch: Batch, step: int) -> dict[str, Tensor | float]:
        labelled, unlabelled = batch["image"].split(len(batch["label"]))
        mask = self.copy_paste.mask(labelled, step)
        total = None
        true_halves = list(zip(halves(labelled), halves(batch["label"]), strict=True))
        pairs = zip(true_halves[:: -1 if self.objective.crossed else 1], halves(unlabelled), self.objective.unlabelled_outside, strict=True)
        for (image, label), other, other_outside in pairs:
            true, pseudo = (image, label, 1.0), (other, self.pseudo_label(other), self.u_weight)
            outside, inside = (pseudo, true) if other_outside else (true, pseudo)
            mixed = paste(outside[0], inside[0], mask)  # (N / 4, 1, ...)
            logits = self.forward(mixed)
            self.show(mixed, logits, paste(outside[1], inside[1], mask))
            parts = mix_loss(logits, outside[1], inside[1], mask, outside[2], inside[2], self.objective.dice)
            total = parts if total is None else total + parts
        logged = {"consistency_weight": consistency_weight(step), "box_side": self.copy_paste.sides(mask.shape, step)[0]}
        if self.refresh:
            logged["teacher_interval"] = self.interval
        return {**self.objective.scalars(total), **logged}

    def after_step(self, step: int) -> None:
        ema_update(self.networks["ema_teacher"], self.student, self.ema_decay, self.ema_scope)

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
