"""CoGRNet: self-training on coarse labels, with a copy-paste box as large as the network's focus (spec: CoGRNet, section 3).

Half a of every batch comes from stream 1 (labels carried from the first annotated slice), half b from stream 2. So pre-training pastes
stream 2 into stream 1, and self-training mixes each stream with its own unlabelled half, as `CopyPastePretrain` and `DualTeacher` do.
"""

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor, nn

from methods.copy_paste import CopyPaste
from methods.copy_paste_pretrain import CopyPastePretrain
from methods.dual_teacher import DualTeacher
from methods.objective import Objective
from methods.supervised import Supervised
from utils.losses import DiceCE, supervised_loss
from utils.masks import START_RATIO
from utils.phase import Batch
from utils.ramps import consistency_weight

FOCUS_STEPS = 10


def focus_ratio(logits: Tensor) -> float:
    """Side ratio of the focus area: the share of positive entries among all logits, held within 10 % of the fixed box's 2/3."""
    return min(max((logits > 0).float().mean().item(), 0.9 * START_RATIO), 1.1 * START_RATIO)


class CoGRNetPretrain(CopyPastePretrain):
    """Copy-paste pre-training whose last ten steps give the focus area: `focus` is None until the last step is made."""

    def __init__(self, student: nn.Module, objective: Objective, copy_paste: CopyPaste):
        super().__init__(student, objective, copy_paste)
        self.summed: Tensor | None = None
        self.focus: float | None = None

    def watch(self, logits: Tensor, step: int) -> None:
        left = self.copy_paste.total - step
        if left <= FOCUS_STEPS:
            logits = logits.detach().float()
            self.summed = logits if self.summed is None else self.summed + logits
        if left == 1:
            self.focus, self.summed = focus_ratio(self.summed), None  # a mean has the signs of its sum

    def state_dict(self) -> dict:
        return {**super().state_dict(), "summed_logits": self.summed, "focus_ratio": self.focus}

    def load_state_dict(self, state: Mapping) -> None:
        super().load_state_dict(state)
        self.summed, self.focus = state["summed_logits"], state["focus_ratio"]
        if self.summed is not None:
            self.summed = self.summed.to(next(self.student.parameters()).device)


class CoGRNet(DualTeacher):
    """A mean teacher with copy-paste in the focus area, whose size stays as pre-training left it and whose place is drawn."""

    def set_focus(self, ratio: float) -> None:
        self.copy_paste = replace(self.copy_paste, kind="fixed", start_ratio=ratio)

    def losses(self, batch: Batch, step: int) -> dict[str, Tensor | float]:
        return {**super().losses(batch, step), "focus_ratio": self.copy_paste.start_ratio}

    def state_dict(self) -> dict:
        return {**super().state_dict(), "focus_ratio": self.copy_paste.start_ratio}

    def load_state_dict(self, state: Mapping) -> None:
        super().load_state_dict(state)
        self.set_focus(state["focus_ratio"])


class PlainPretrain(Supervised):
    """Pre-training without copy-paste: the labelled patches as they are."""

    name = CopyPastePretrain.name


class MeanTeacher(DualTeacher):
    """Baseline without copy-paste: labelled patches against their labels, unlabelled ones against the teacher's pseudo labels."""

    def losses(self, batch: Batch, step: int) -> dict[str, Tensor | float]:
        labelled, unlabelled = batch["image"].split(len(batch["label"]))
        pseudo, dice = self.pseudo_label(unlabelled), self.objective.dice
        logits = self.forward(labelled)
        self.show(labelled, logits, batch["label"])
        true = supervised_loss(logits, batch["label"], dice)
        guessed = supervised_loss(self.forward(unlabelled), pseudo, dice)
        parts = true + DiceCE(self.u_weight * guessed.dice, self.u_weight * guessed.ce)
        return {**self.objective.scalars(parts), "consistency_weight": consistency_weight(step)}
