"""Bidirectional copy-paste whose product is the average: the EMA teacher is validated, selected and tested, in pre-training too.

Beside BCP (CVPR 2023), each piece a flag: the averaged network is kept (`--keep`), the teacher looks at unlabelled images without
dropout and without intensity changes and keeps the statistics of batch norm that it finds in them (`--teacher_mode`,
`--teacher_view`), every pixel of a pseudo label counts as much as the teacher believes it (`--pseudo_weight`), pre-training pastes both
ways (`--pre_paste`). Both kinds of mixed images go through the student in one pass, so that batch normalisation sees all of them.

What to expect (docs/results/recipe.md): ACDC, 600 + 1 200 iterations at 128x128, mean test Dice of three seeds 0.771 with 3 labelled
patients where BCP has 0.670 and the edge-guided method 0.586, and 0.791 with 7 where BCP has 0.760, in half of the edge-guided
method's time. After 3 000 + 9 000 iterations 0.863 where BCP has 0.842 and the edge-guided method 0.827 (3 labelled patients, one seed).
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from methods.copy_paste import CopyPaste, CopyPastePretrain, Pasting, paste
from methods.edge_guided import DualTeacher, TeacherOptions
from utils.ema import Ema, copy_state
from utils.losses import Loss
from utils.phase import Batch, Losses, Phase, Plan, halves, unhalved

TEACHER = "ema_teacher"


@dataclass(frozen=True)
class Options(TeacherOptions):
    keep: Literal["teacher", "student"] = "teacher"
    """The network that is validated, selected, saved for the test and handed from pre-training to self-training."""
    teacher_mode: Literal["eval", "statistics", "train"] = "statistics"
    """How the teacher looks at unlabelled images: eval; statistics: without dropout, batch norm by the batch's own statistics, whose
    running average, of images as they are, it keeps, where the student's are of mixed ones; train: with dropout too, as in BCP."""
    teacher_view: Literal["plain", "same"] = "plain"
    """What it looks at: images without the changes of --intensity, or those that the student gets."""
    pseudo_weight: Literal["probability", "one"] = "probability"
    """Weight of a pixel of the pseudo label: the teacher's probability of that class, or 1."""
    pre_paste: Literal["both", "one"] = "both"
    """Pre-training: half b of the labelled images into half a and a into b, or b into a alone as in BCP."""
    paste: Literal["both", "one"] = "one"
    """Self-training: every labelled image and its unlabelled partner into each other, twice the mixed images, or one of them into the
    other as in BCP."""


PRESET = {
    "exp": "averaged_copy_paste",
    "egm": "none",
    "ema_decay": 0.89,  # the statistics of batch norm lag behind a longer average, in pre-training until nothing is found
    "intensity": ("gamma", "brightness", "noise"),
    "lr_schedule": "poly",
    "pre_lr_schedule": "poly",
    "lr_drop_every": 0,  # a page's own steps belong to another schedule
}
TITLE = "averaged copy-paste"


def normalise_by_batch(net: nn.Module) -> None:
    """Batch norm as in training, all else as it is; its running averages are over some 50 passes."""
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.training, module.momentum = True, 0.02


class AveragedPretrain(CopyPastePretrain):
    """Copy-paste among the labelled images, averaged."""

    def __init__(
        self,
        student: nn.Module,
        loss: Loss,
        pasting: Pasting,
        copy_paste: CopyPaste,
        options: Options,
    ):
        super().__init__(student, loss, pasting, copy_paste)
        self.options = options
        self.networks[TEACHER] = copy.deepcopy(student).requires_grad_(False)
        self.ema = Ema(self.networks[TEACHER], student)
        self.selected = TEACHER if options.keep == "teacher" else "student"

    def begin(self) -> None:
        copy_state(self.networks[TEACHER], self.student)

    def losses(self, batch: Batch, step: int) -> Losses:
        if self.options.pre_paste == "both":
            batch = {
                name: torch.cat([a, b, b, a])
                for name in ("image", "label")
                for a, b in [halves(batch[name])]
            }
        return super().losses(batch, step)

    def after_step(self, step: int) -> None:
        self.ema.update(self.options.ema_decay)


class AveragedSelfTrain(DualTeacher):
    """Labelled and unlabelled images pasted into each other, pseudo labels by the average."""

    def __init__(
        self,
        student: nn.Module,
        loss: Loss,
        pasting: Pasting,
        copy_paste: CopyPaste,
        options: Options,
    ):
        self.keeps_statistics = options.teacher_mode == "statistics"
        scope = "parameters" if self.keeps_statistics else "state"
        super().__init__(
            student, loss, pasting, copy_paste, options.u_weight, options.ema_decay, scope, None
        )
        self.options = options
        self.selected = TEACHER if options.keep == "teacher" else "student"

    @torch.no_grad()
    def trusted_pseudo_label(self, image: Tensor) -> Callable[[], tuple[Tensor, Tensor]]:
        """Of images (N, C, ...) a call that gives the pseudo label (N, ...) and the weight of its every pixel (N, ...)."""
        teacher, mode = self.networks[TEACHER], self.options.teacher_mode == "train"
        if teacher.training != mode:
            teacher.train(mode)
        if self.keeps_statistics:
            for net in {teacher, self.twins.get(TEACHER, teacher)}:  # one without half precision
                normalise_by_batch(net)
        logits = unhalved(self.call(TEACHER, image))
        pseudo_label = self.pasting.pseudo_label(logits)

        def trusted() -> tuple[Tensor, Tensor]:
            label = pseudo_label()
            if self.options.pseudo_weight == "one":
                return label, torch.ones(label.shape, device=label.device)
            return label, logits.softmax(1).gather(1, label[:, None])[:, 0]

        return trusted

    def losses(self, batch: Batch, step: int) -> Losses:
        labelled, unlabelled = batch["image"].split(len(batch["label"]))
        seen = (
            batch.get("plain", batch["image"])
            if self.options.teacher_view == "plain"
            else batch["image"]
        )
        trusted = self.trusted_pseudo_label(seen[len(labelled) :])
        box = self.copy_paste.mask(labelled, step)  # (...), 1 outside
        order = -1 if self.pasting.crossed else 1
        image, label = (torch.cat(halves(x)[::order]) for x in (labelled, batch["label"]))
        true = torch.cat(
            [
                (1 - box if outside else box).expand(len(half), *box.shape)
                for outside, half in self._pairs(label)
            ]
        )
        twice = self.options.paste == "both"
        if twice:
            true = torch.cat([true, 1 - true])
            image, label, unlabelled = (torch.cat([x, x]) for x in (image, label, unlabelled))
        mixed = paste(image, unlabelled, true.unsqueeze(1))  # (N / 2 or N, C, ...)
        logits = self.forward(mixed)
        pseudo, trust = (
            torch.cat([x, x]) if twice else x for x in trusted()
        )  # asked for last: it is on its way
        self.show(mixed, logits, paste(label, pseudo, true))
        scalars = self.score(
            self.loss.of_mixed, logits, label, pseudo, true, 1.0, self.u_weight, trust
        )
        return {
            **scalars,
            "trust": trust.mean(),
            "box_side": self.copy_paste.sides(box.shape, step)[0],
        }

    def _pairs(self, label: Tensor):
        return zip(self.pasting.unlabelled_outside, halves(label), strict=True)


def stages(frame) -> list[Plan]:
    """Pre-training among the labelled cases, then self-training; `frame`: see `programs.training.Frame`."""
    s, page = frame.settings, frame.page

    def pretrain() -> Phase:
        return AveragedPretrain(
            frame.network(),
            frame.loss(pretraining=True),
            page.pasting,
            box(AveragedPretrain, s.pre_iterations),
            s,
        )

    def selftrain() -> Phase:
        return AveragedSelfTrain(
            frame.network(), frame.loss(), page.pasting, box(AveragedSelfTrain, s.max_iterations), s
        )

    def box(phase: type[Phase], length: int) -> CopyPaste:
        return CopyPaste(
            "fixed",
            1 / 3,
            length,
            frame.seed(phase.name, 1),
            frame.epoch(phase is AveragedSelfTrain),
        )

    return [
        Plan(AveragedPretrain, pretrain, s.pre_iterations, unlabelled=False, pretraining=True),
        Plan(AveragedSelfTrain, selftrain, s.max_iterations, after=AveragedPretrain.name),
    ]
