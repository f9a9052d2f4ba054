"""CoGRNet: self-training on coarse labels, with a copy-paste box as large as the network's focus.

The first half of every batch comes from stream 1 (labels propagated from the first annotated
slice), the second half from stream 2. So pre-training pastes stream 2 into stream 1, and
self-training mixes each stream with its own unlabelled half, as BCP does.

Cost of a step: as BCP.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor

from methods.base import Batch, Method, StageContext, StageSpec, at_least_float32
from methods.bcp import CopyPastePretrain, CopyPasteSelfTrain, TeacherOptions
from methods.copy_paste import START_RATIO
from utils.errors import UserError
from utils.losses import StepLoss

FOCUS_STEPS = 10


@dataclass(frozen=True)
class Options(TeacherOptions):
    """Options of CoGRNet."""

    focus: Literal["published", "off"] = "published"
    """Side of the self-training box. published: from the focus area of the last ten steps of
    pre-training. off: 2/3.
    """


def focus_ratio(logits: Tensor) -> float:
    """Return the side ratio of the focus area: the share of positive logits, within 10 % of the
    fixed box's 2/3.
    """
    share = (logits > 0).float().mean().item()
    return min(max(share, 0.9 * START_RATIO), 1.1 * START_RATIO)


class CoGRNetPretrain(CopyPastePretrain[Options]):
    """Copy-paste pre-training whose last ten steps give the focus area; `focus` is None until the
    last step is done.
    """

    def __init__(self, context: StageContext[Options]) -> None:
        super().__init__(context)
        self.steps = context.length * (context.epoch or 1)
        self.summed: Tensor | None = None
        self.focus: float | None = None

    def watch(self, logits: Tensor, step: int) -> None:
        """Add up the logits of the last ten steps; their sum has the signs of their mean."""
        steps_left = self.steps - step
        if steps_left > FOCUS_STEPS:
            return
        logits = at_least_float32(logits.detach())
        # cloned because a recorded CUDA graph overwrites its logits at the next step
        self.summed = logits.clone() if self.summed is None else self.summed + logits
        if steps_left == 1:
            self.focus = focus_ratio(self.summed)
            self.summed = None

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "summed_logits": self.summed, "focus_ratio": self.focus}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.focus = state["focus_ratio"]
        self.summed = state["summed_logits"]
        if self.summed is not None:
            self.summed = self.summed.to(next(self.student.parameters()).device)


class CoGRNet(CopyPasteSelfTrain[Options]):
    """A mean teacher with copy-paste in the focus area: its size stays as pre-training left it, its
    place is drawn at each step.
    """

    def __init__(self, context: StageContext[Options]) -> None:
        super().__init__(context)
        self.pretrained_state = lambda: context.state_of(CoGRNetPretrain.name)

    def begin(self) -> None:
        super().begin()
        if self.options.focus == "off":
            return
        ratio = self.pretrained_state().get("focus_ratio")
        if ratio is None:
            raise UserError(
                "pre_train/last.pth: no finished pre-training that gives a focus area; run it "
                "first, or use --focus off"
            )
        self.set_focus(ratio)

    def set_focus(self, ratio: float) -> None:
        """Set the side ratio of the box."""
        self.copy_paste = replace(self.copy_paste, start_ratio=ratio)

    def losses(self, batch: Batch, step: int) -> Iterator[StepLoss]:
        yield from super().losses(batch, step)
        self.log("focus_ratio", self.copy_paste.start_ratio)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "focus_ratio": self.copy_paste.start_ratio}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.set_focus(state["focus_ratio"])


METHOD = Method(
    title="CoGRNet",
    options=Options,
    presets={"exp": "CoGRNet", "egm": "none"},
    required={
        "labels": "learns from two annotated slices of a volume, not from whole labels; train it "
        "with code/CoGRNet_train.py (LA, KiTS19, LiTS or own volumes)"
    },
    stages=(
        StageSpec(CoGRNetPretrain, ("pre_iterations",), uses_unlabelled=False, pretraining=True),
        StageSpec(CoGRNet, ("max_iterations",), starts_from=CoGRNetPretrain.name),
    ),
)
