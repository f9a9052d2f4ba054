"""What the training loop asks of a method: the base of all phases, and the plan of a stage."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

Batch = dict[str, Tensor]
Losses = dict[str, Tensor | float]
Score = Callable[..., Losses]  # (logits, *targets) -> scalars


@dataclass(frozen=True)
class Validation:
    """`score` selects the best checkpoint (higher is better); `scalars` are logged."""

    score: float
    scalars: dict[str, float]


@dataclass(frozen=True)
class Faster:
    """What a phase calls in place of its networks, by name, and of a pass of the student with its score or a score alone."""

    networks: Mapping[str, Callable[[Tensor], Tensor]]
    scored: Callable[..., tuple[Tensor, Losses]]  # (x, score, *targets)
    score: Callable[..., Losses]  # (score, logits, *targets)


class Phase:
    """One stage of training. The loop calls `losses`, makes the backward pass, steps the optimiser on the learners, then calls
    `after_step`; after every so many iterations it validates and calls `after_validation`; `after_iteration` comes last of all. `begin` is
    called once, before the first step of a stage, not when it resumes.

    `networks` are all networks with a state to keep; `learners` are those of them that learn. In `losses` they are called through
    `call` or `scored`, so that the loop may hand out faster ones. `selected` names the network that is validated, that the best
    checkpoint is chosen by, and that test, prediction, export and a later stage read from it: the student, unless a method says otherwise.
    """

    name: ClassVar[str]
    selected: str = "student"

    def __init__(self, **learners: nn.Module):
        """`learners`: "student" among them; methods add teachers to `self.networks`."""
        self.learners = learners
        self.networks = dict(learners)
        self.faster: Faster | None = None
        self.twins: dict[
            str, nn.Module
        ] = {}  # of networks that do not learn: what is called in their place, with the same state
        self._shown: tuple[Tensor, Tensor, Tensor] | None = None

    @property
    def student(self) -> nn.Module:
        return self.networks["student"]

    def forward(self, x: Tensor) -> Tensor:
        """The student's logits (N, K, ...)."""
        return self.call("student", x)

    def call(self, name: str, x: Tensor) -> Tensor:
        """The logits (N, K, ...) of one of the networks."""
        if name in self.twins and self.twins[name].training != self.networks[name].training:
            self.twins[name].train(self.networks[name].training)
        if self.faster:
            return self.faster.networks[name](x)
        return self.twins.get(name, self.networks[name])(x)

    def scored(self, x: Tensor, score: Score, *targets) -> tuple[Tensor, Losses]:
        """The student's logits (N, K, ...) and `score(logits, *targets)`, scalars that follow from tensors and numbers alone, so that
        pass and score may be compiled as one piece. A target that is a call (a pseudo label on its way) is asked for behind the pass, or
        just before the piece.
        """
        if self.faster:
            return self.faster.scored(x, score, *arrived(targets))
        logits = self.forward(x)
        return logits, score(logits, *arrived(targets))

    def score(self, function: Score, logits: Tensor, *targets) -> Losses:
        """`function(logits, *targets)` apart from the pass, for whoever has nothing else to let the device do while targets are on their
        way."""
        return (
            self.faster.score(function, logits, *targets)
            if self.faster
            else function(logits, *targets)
        )

    def begin(self) -> None:
        """The stage starts for the first time; what the student takes over from an earlier stage is in it already."""

    def losses(self, batch: Batch, step: int) -> Losses | Iterator[Losses]:
        """Scalars of the step `step` (from 0), "loss" among them, from a batch on the networks' device: "image" of labelled, then of
        unlabelled cases, "label" of the labelled ones, and with --intensity "plain", the images without its changes. Tensors are not
        read here.

        A loss that is a sum may be yielded term by term, each with its own "loss": the backward pass of one is made before the next is
        asked for, so what only one of them keeps is in memory. Scalars of one name are added up; a yield without "loss" is logged alone.
        """
        raise TypeError(f"{type(self).__name__} defines no losses")

    def after_step(self, step: int) -> None:
        """Called when the optimiser has made step `step`."""

    def after_validation(self, improved: bool) -> None:
        """Called after each validation; `improved`: its score is above 0 and above the best one before it, which some
        published codes round first (`Stage.score_to_beat`)."""

    def after_iteration(self, step: int) -> None:
        """Called when all of step `step` is done, the validation that may follow it too."""

    def state_dict(self) -> dict:
        """Tensors and plain types that bring the phase back, the student's weights apart."""
        return {name: net.state_dict() for name, net in self.networks.items() if name != "student"}

    def load_state_dict(self, state: dict) -> None:
        for name, net in self.networks.items():
            if name != "student":
                net.load_state_dict(state[name])

    def show(self, image: Tensor, logits: Tensor, label: Tensor) -> None:
        """Keep the first sample of a mixed batch for `pictures`: image (N, C, ...), logits (N, K, ...), label (N, ...)."""
        self._shown = (
            image[0, 0].detach(),
            logits[0].detach().clone(),
            label[0],
        )  # recorded graphs write over their logits

    def pictures(self) -> dict[str, Tensor]:
        """The last step's first sample: "image" (H, W), "prediction" and "label" (H, W) class numbers; of a volume its middle slice."""
        if self._shown is None:
            return {}
        image, logits, label = self._shown
        shown = {"image": image.float(), "prediction": logits.argmax(0), "label": label}
        return {name: x if x.ndim == 2 else x[..., x.shape[-1] // 2] for name, x in shown.items()}


@dataclass(frozen=True)
class Plan:
    """One stage as its method wants it. `length` counts iterations (or epochs, where the settings say so); `unlabelled`: whether batches
    hold unlabelled images; `pretraining`: whether the settings' numbers of pre-training count; `after`: the stage whose best network
    the student takes over when this one begins."""

    phase: type[Phase]
    build: Callable[[], Phase]
    length: int
    unlabelled: bool = True
    pretraining: bool = False
    after: str | None = None


def parts(losses: Losses | Iterator[Losses]) -> Iterator[Losses]:
    """What `Phase.losses` gave, one backward pass at a time."""
    return iter((losses,)) if isinstance(losses, dict) else losses


def added(losses: Iterable[Losses]) -> Losses:
    """Scalars of several parts of a step, those of one name added up; without their graphs."""
    total: Losses = {}
    for part in losses:
        for name, value in part.items():
            value = value.detach() if isinstance(value, Tensor) else value
            total[name] = total[name] + value if name in total else value
    return total


def arrived(targets: Iterable) -> list:
    """Targets of a loss, those that are calls asked for."""
    return [target() if callable(target) else target for target in targets]


def unhalved(x: Tensor) -> Tensor:
    """`x` in float32 where it has half precision; float32 and float64 stay as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def halves(stream: Tensor) -> tuple[Tensor, Tensor]:
    """A batch (2n, ...) as its first and second half."""
    a, b = torch.chunk(stream, 2)
    return a, b
