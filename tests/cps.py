"""Cross pseudo supervision (Chen et al., CVPR 2021): two networks, each learns from the other's pseudo labels. A method in one file."""

from collections.abc import Iterator
from dataclasses import dataclass

from methods.base import Batch, Method, StageContext, StageSpec, TrainingStage
from utils.errors import UserError
from utils.losses import StepLoss, weighted_sum


@dataclass(frozen=True)
class Options:
    cps_weight: float = 0.5
    """Weight of the loss on the other network's pseudo labels."""

    def check(self) -> None:
        if not 0 <= self.cps_weight < 2**63:
            raise UserError(f"--cps_weight {self.cps_weight}: must be at least 0")


class CrossPseudo(TrainingStage[Options]):
    name = "cross_train"

    def __init__(self, context: StageContext[Options]):
        super().__init__(context)
        self.add_learner("other", context.network(1))

    def losses(self, batch: Batch, step: int) -> Iterator[StepLoss]:
        count = len(batch["label"])
        first = self.call("student", batch["image"])  # (N, K, ...)
        second = self.call("other", batch["image"])
        parts = []
        for mine, theirs in ((first, second), (second, first)):
            pseudo_label = theirs[count:].detach().argmax(1)
            parts.append((self.loss.whole(mine[:count], batch["label"]), 1.0))
            parts.append((self.loss.whole(mine[count:], pseudo_label), self.options.cps_weight))
        self.show(batch["image"], first, batch["label"])
        yield self.loss.combine(weighted_sum(*parts))


METHOD = Method(
    title="cross pseudo supervision",
    options=Options,
    presets={"exp": "cps", "egm": "none"},
    stages=(StageSpec(CrossPseudo),),
)
