"""The contract between the training loop and a method.

A method is one module in `methods/`: a dataclass of options, a class per stage of its training, and
a `METHOD` that names them. The loop asks a stage for its losses and makes the backward passes and
the optimiser's step. It calls the stage after each step and each validation. Everything a stage
needs to build itself comes from its `StageContext`.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Literal, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

from methods.copy_paste import Pasting
from methods.stage_networks import PSEUDO_SHARE, StageNetworks
from utils.ema import EmaScope, copy_state
from utils.losses import Loss, StepLoss

Batch = dict[str, Tensor]
"""A batch on the networks' device.

"image": (N, C, ...), the labelled cases first, then the unlabelled ones. "label": (L, ...) int64
class numbers of the labelled cases. "distance": (L, ...) uint8, only for methods with
`Method.distances` and coarse labels. 0 outside the volume. Elsewhere 1 plus the number of slices to
the annotated slice that the label was propagated from, at most 255; also 1 on the other annotated
slice. "plain": the images without the changes of --intensity; only there if that flag is set.
"""
OptionsT = TypeVar("OptionsT")
OptionsT_co = TypeVar("OptionsT_co", covariant=True)


class StageContext(Protocol[OptionsT_co]):
    """What a stage is built from: the options of the run, and what depends on the data set and on
    the stage.
    """

    @property
    def options(self) -> OptionsT_co:
        """All settings of the run; the method's own options are among them."""
        ...

    @property
    def loss(self) -> Loss:
        """The supervised loss of this stage on this data set."""
        ...

    @property
    def pasting(self) -> Pasting:
        """The data set's rules of copy-paste and of pseudo labels."""
        ...

    @property
    def ema_scope(self) -> EmaScope:
        """What an EMA teacher averages on this data set."""
        ...

    @property
    def dims(self) -> int:
        """Spatial axes of an image: 2 or 3."""
        ...

    @property
    def classes(self) -> int:
        """Number of classes, background included."""
        ...

    @property
    def length(self) -> int:
        """Length of the stage in iterations, or in epochs where the settings count epochs."""
        ...

    @property
    def epoch(self) -> int | None:
        """Steps per epoch where the settings count epochs, else None."""
        ...

    @property
    def seed(self) -> tuple[int, ...]:
        """Seed of the random numbers that the method draws itself."""
        ...

    def network(self, number: int = 0, model: str | None = None) -> nn.Module:
        """Build a network on the device; each number has its own first weights, the same at every
        call.

        `model`: its name in the registry of networks, by default the run's `--model`.
        """
        ...

    def state_of(self, stage: str) -> Mapping[str, Any]:
        """Return what an earlier stage of this run saved as its state; empty if it has not run."""
        ...


@dataclass(frozen=True)
class Validation:
    """`score` selects the best checkpoint (higher is better); `scalars` are logged. `class_dice`:
    the Dice of each foreground class by its name.
    """

    score: float
    scalars: dict[str, float]
    class_dice: Mapping[str, float] = field(default_factory=dict[str, float])


def class_scalar(metric: str, class_name: str) -> str:
    """Return the name of the scalar that has a metric of a class."""
    return f"{metric}_{class_name.replace(' ', '_')}"


class TrainingStage(StageNetworks, Generic[OptionsT]):
    """One stage of a method's training. A subclass has a `name` and implements `losses`.

    The loop calls `begin` once when the stage starts (not when it resumes); then for every step
    `losses`, the backward passes, the optimiser and `after_step`; `after_validation` when a
    validation is done; and last of all `after_iteration`.

    `networks` holds all networks that a checkpoint keeps, `learners` those that an optimiser
    trains, each its own. `selected` names the network whose validation selects the best checkpoint,
    and that is tested, exported and passed to the next stage.
    """

    name: ClassVar[str]
    former_state: ClassVar[frozenset[str]] = frozenset()
    """Keys of `state_dict` that older checkpoints of this stage have and that are ignored."""
    selected: str = "student"
    """Name of a network, or `MEAN`."""
    validated: tuple[str, ...] = ()
    """What is validated, in this order: names of networks, or `MEAN`. `selected` comes last if it
    is not among them.
    """

    def __init__(self, context: StageContext[OptionsT]) -> None:
        super().__init__()
        self.options = context.options
        self.loss = context.loss
        self.foreground_classes = range(1, context.classes)
        self.add_learner("student", context.network())

    # what a method implements

    def losses(self, batch: Batch, step: int) -> Iterator[StepLoss]:
        """Yield the losses of step `step` (from 0), one for each backward pass.

        The loop makes the backward pass of a loss before it asks for the next one, so a loss that
        is a sum needs only the memory of its largest term. All learners step after the last loss;
        `loss.then_step(name)` lets one step earlier. Never read a tensor here (`.item()`): the host
        would wait for the device. Use `log` instead.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement losses")

    def begin(self) -> None:
        """Start the stage; the student already has the weights of an earlier stage.

        Teachers start as copies of the student.
        """
        for teacher in self.teachers.values():
            copy_state(teacher, self.student)

    def after_step(self, step: int) -> None:
        """React to the optimisers' step number `step`; EMA teachers are updated here."""

    def after_validation(self, improved: bool) -> None:
        """React to a validation.

        `improved`: its score is above 0 and above the best one before, which some published codes
        round first (`training.stage.StageSetup.score_to_beat`).
        """

    def after_iteration(self, step: int) -> None:
        """React to the end of step `step`, its validation included."""

    # what is logged

    def log_pseudo_labels(self, label: Tensor, trusted: Tensor | None = None) -> None:
        """Log the share of each foreground class in pseudo labels (N, ...); the loop warns where a
        class vanishes.

        `trusted` (N, ...): above 0 where the pseudo label is learned, everywhere by default.
        """
        if trusted is not None:
            label = label * (trusted > 0)
        for number in self.foreground_classes:
            self.log(f"{PSEUDO_SHARE}{number}", (label == number).float().mean())

    # what is saved

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and plain values that restore the stage, without the student's weights."""
        return {name: net.state_dict() for name, net in self.networks.items() if name != "student"}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, net in self.networks.items():
            if name != "student":
                net.load_state_dict(state[name])


LengthName = Literal["pre_iterations", "max_iterations"]


@dataclass(frozen=True)
class StageSpec:
    """A stage as its method declares it.

    `lengths`: the settings whose sum is the stage's length. `uses_unlabelled`: whether batches hold
    unlabelled images. `pretraining`: whether the pre-training settings (losses, weight decay,
    schedule) apply. `starts_from`: the stage whose selected network the student starts from.
    `keeps_optimizer`: whether the optimisers continue with the state of that stage on every data
    set; otherwise the data set decides (`DatasetSpec.keeps_optimizer`).
    """

    stage: type[TrainingStage[Any]]
    lengths: tuple[LengthName, ...] = ("max_iterations",)
    uses_unlabelled: bool = True
    pretraining: bool = False
    starts_from: str | None = None
    keeps_optimizer: bool = False

    @property
    def name(self) -> str:
        return self.stage.name


@dataclass(frozen=True)
class Method:
    """What the registry knows of a method.

    `title`: what logs, results and reports call a run of it: a text, or a function of the run's
    settings. `options`: a frozen dataclass whose fields become flags. `stages`: in the order in
    which they run. `presets`: values that `--method` sets before other flags are read.
    `presets_of_dims`: more of them for data of 2 or 3 dimensions. `required`: options of the
    network or the data set that the method cannot do without, each with the remedy if it is
    missing. `auxiliary`: what the network must return in addition to its logits
    (`networks.base.Network.auxiliary`). `distances`: with two annotated slices per volume, batches
    also hold the distance of each labelled voxel to its slice, and each label comes from its own
    slice only.
    """

    title: str | Callable[[Mapping[str, Any]], str]
    options: type
    stages: tuple[StageSpec, ...]
    presets: Mapping[str, Any] = field(default_factory=dict[str, Any])
    presets_of_dims: Mapping[int, Mapping[str, Any]] = field(
        default_factory=dict[int, Mapping[str, Any]]
    )
    required: Mapping[str, str] = field(default_factory=dict[str, str])
    auxiliary: str = "none"
    distances: bool = False


class Halves(NamedTuple):
    """A batch (2n, ...) as its first and its second half (n, ...)."""

    first: Tensor
    second: Tensor


def halves(x: Tensor) -> Halves:
    """Split a batch (2n, ...) into its halves."""
    return Halves(*torch.chunk(x, 2))


def split_batch(batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the labelled images (L, C, ...) and the unlabelled images (U, C, ...) of a batch."""
    labelled = len(batch["label"])
    return batch["image"][:labelled], batch["image"][labelled:]


def at_least_float32(x: Tensor) -> Tensor:
    """Return `x` in float32 if it has half precision; float32 and float64 stay as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
