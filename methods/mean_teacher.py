"""Mean teacher (Tarvainen & Valpola, NeurIPS 2017) without copy-paste, a baseline: pre-training on the labelled images, then
self-training with the pseudo labels of an EMA teacher."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from methods.copy_paste import CopyPastePretrain
from methods.edge_guided import DualTeacher, TeacherOptions
from methods.supervised import Supervised
from utils.losses import weighted_sum
from utils.phase import Batch, Losses, Phase, Plan
from utils.schedules import consistency_weight


@dataclass(frozen=True)
class Options(TeacherOptions):
    """Those of the teacher."""


PRESET = {"exp": "mean_teacher", "egm": "none"}
TITLE = "mean teacher"


class PlainPretrain(Supervised):
    name = CopyPastePretrain.name


class MeanTeacher(DualTeacher):
    """Labelled images against their labels, unlabelled ones against the teacher's pseudo labels; nothing is pasted."""

    def losses(self, batch: Batch, step: int) -> Iterator[Losses]:
        labelled, unlabelled = batch["image"].split(len(batch["label"]))
        pseudo_label = self.pseudo_label(unlabelled)
        logits, scalars = self.scored(labelled, self.loss.of_whole, batch["label"])
        self.show(labelled, logits, batch["label"])
        yield scalars
        yield self.scored(unlabelled, self.of_unlabelled, pseudo_label)[1]
        yield {"consistency_weight": consistency_weight(step)}

    def of_unlabelled(self, logits: Tensor, label: Tensor) -> Losses:
        return self.loss.scalars(weighted_sum((self.loss.whole(logits, label), self.u_weight)))


def stages(frame) -> list[Plan]:
    s, page = frame.settings, frame.page

    def pretrain() -> Phase:
        return PlainPretrain(frame.network(), frame.loss(pretraining=True))

    def selftrain() -> Phase:
        return MeanTeacher(
            frame.network(),
            frame.loss(),
            page.pasting,
            None,
            s.u_weight,
            s.ema_decay,
            page.ema_scope,
            None,
        )

    return [
        Plan(PlainPretrain, pretrain, s.pre_iterations, unlabelled=False, pretraining=True),
        Plan(MeanTeacher, selftrain, s.max_iterations, after=PlainPretrain.name),
    ]
