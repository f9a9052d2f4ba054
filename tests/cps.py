"""Cross pseudo supervision (Chen et al., CVPR 2021): two networks, each learns from the other's pseudo labels. A method in one file."""

from dataclasses import dataclass

from torch import nn

from utils.errors import UserError
from utils.losses import Loss, weighted_sum
from utils.phase import Batch, Losses, Phase, Plan


@dataclass(frozen=True)
class Options:
    cps_weight: float = 0.5
    """Weight of the loss on the other network's pseudo labels."""

    def check(self) -> None:
        if not 0 <= self.cps_weight < 2**63:
            raise UserError(f"--cps_weight {self.cps_weight}: must be at least 0")


PRESET = {"exp": "cps", "egm": "none"}


class CrossPseudo(Phase):
    name = "cross_train"

    def __init__(self, student: nn.Module, other: nn.Module, loss: Loss, weight: float):
        super().__init__(student=student, other=other)  # both learn
        self.loss, self.weight = loss, weight

    def losses(self, batch: Batch, step: int) -> Losses:
        count = len(batch["label"])
        logits = [self.call(name, batch["image"]) for name in self.learners]  # (N, K, ...) of each
        parts = []
        for mine, theirs in (logits, logits[::-1]):
            parts.append((self.loss.whole(mine[:count], batch["label"]), 1.0))
            parts.append(
                (self.loss.whole(mine[count:], theirs[count:].detach().argmax(1)), self.weight)
            )
        self.show(batch["image"], logits[0], batch["label"])
        return self.loss.scalars(weighted_sum(*parts))


def stages(frame) -> list[Plan]:
    s = frame.settings

    def build() -> Phase:
        return CrossPseudo(frame.network(), frame.network(1), frame.loss(), s.cps_weight)

    return [Plan(CrossPseudo, build, s.max_iterations)]
