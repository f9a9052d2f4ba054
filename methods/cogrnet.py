"""CoGRNet: self-training on coarse labels, with a copy-paste box as large as the network's focus (spec: CoGRNet, section 3).

Half a of every batch comes from stream 1 (labels carried from the first annotated slice), half b from stream 2. So pre-training pastes
stream 2 into stream 1, and self-training mixes each stream with its own unlabelled half, as `CopyPastePretrain` and `DualTeacher` do.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor, nn

from methods.copy_paste import CopyPaste, CopyPastePretrain, Pasting
from methods.edge_guided import DualTeacher, TeacherOptions
from utils.errors import UserError
from utils.losses import Loss
from utils.masks import START_RATIO
from utils.phase import Batch, Losses, Phase, Plan, unhalved

FOCUS_STEPS = 10


@dataclass(frozen=True)
class Options(TeacherOptions):
    focus: Literal["published", "off"] = "published"
    """Side of the self-training box: the focus area that pre-training's last ten steps give, or off: 2/3."""


PRESET = {"exp": "CoGRNet", "egm": "none"}
TITLE = "CoGRNet"
REQUIRED = {
    "labels": "learns from two annotated slices of a volume, not from whole labels; train it with code/CoGRNet_train.py "
    "(LA, KiTS19, LiTS or own volumes)"
}


def focus_ratio(logits: Tensor) -> float:
    """Side ratio of the focus area: the share of positive entries among all logits, held within 10 % of the fixed box's 2/3."""
    return min(max((logits > 0).float().mean().item(), 0.9 * START_RATIO), 1.1 * START_RATIO)


class CoGRNetPretrain(CopyPastePretrain):
    """Copy-paste pre-training whose last ten steps give the focus area: `focus` is None until the last step is made."""

    def __init__(self, student: nn.Module, loss: Loss, pasting: Pasting, copy_paste: CopyPaste):
        super().__init__(student, loss, pasting, copy_paste)
        self.summed: Tensor | None = None
        self.focus: float | None = None

    def watch(self, logits: Tensor, step: int) -> None:
        left = self.copy_paste.total - step
        if left <= FOCUS_STEPS:
            logits = unhalved(logits.detach())
            self.summed = (
                logits.clone() if self.summed is None else self.summed + logits
            )  # recorded graphs write over their logits
        if left == 1:
            self.focus, self.summed = (
                focus_ratio(self.summed),
                None,
            )  # a mean has the signs of its sum

    def state_dict(self) -> dict:
        return {**super().state_dict(), "summed_logits": self.summed, "focus_ratio": self.focus}

    def load_state_dict(self, state: Mapping) -> None:
        super().load_state_dict(state)
        self.summed, self.focus = state["summed_logits"], state["focus_ratio"]
        if self.summed is not None:
            self.summed = self.summed.to(next(self.student.parameters()).device)


class CoGRNet(DualTeacher):
    """A mean teacher with copy-paste in the focus area, whose size stays as pre-training left it and whose place is drawn.

    `pretrained`: gives the state that pre-training's phase ended with, asked for when the stage begins; None: the box keeps its size.
    """

    pretrained = None

    def begin(self) -> None:
        super().begin()
        if self.pretrained is not None:
            ratio = self.pretrained().get("focus_ratio")
            if ratio is None:
                raise UserError(
                    "pre_train/last.pth: no finished pre-training that gives a focus area; run it first, or use --focus off"
                )
            self.set_focus(ratio)

    def set_focus(self, ratio: float) -> None:
        self.copy_paste = replace(self.copy_paste, kind="fixed", start_ratio=ratio)

    def losses(self, batch: Batch, step: int) -> Iterator[Losses]:
        yield from super().losses(batch, step)
        yield {"focus_ratio": self.copy_paste.start_ratio}

    def state_dict(self) -> dict:
        return {**super().state_dict(), "focus_ratio": self.copy_paste.start_ratio}

    def load_state_dict(self, state: Mapping) -> None:
        super().load_state_dict(state)
        self.set_focus(state["focus_ratio"])


def stages(frame) -> list[Plan]:
    s, page = frame.settings, frame.page

    def box(phase: type[Phase], length: int) -> CopyPaste:
        return CopyPaste("fixed", 1, length, frame.seed(phase.name, 1))

    def pretrain() -> Phase:
        copy_paste = box(CoGRNetPretrain, frame.steps(s.pre_iterations, False))
        return CoGRNetPretrain(
            frame.network(), frame.loss(pretraining=True), page.pasting, copy_paste
        )

    def selftrain() -> Phase:
        copy_paste = box(CoGRNet, s.max_iterations)
        phase = CoGRNet(
            frame.network(),
            frame.loss(),
            page.pasting,
            copy_paste,
            s.u_weight,
            s.ema_decay,
            page.ema_scope,
            None,
        )
        if s.focus == "published":
            phase.pretrained = lambda: frame.phase_state(CoGRNetPretrain.name)
        return phase

    return [
        Plan(CoGRNetPretrain, pretrain, s.pre_iterations, unlabelled=False, pretraining=True),
        Plan(CoGRNet, selftrain, s.max_iterations, after=CoGRNetPretrain.name),
    ]
