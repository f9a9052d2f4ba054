"""The contract between the training loop and a method.

A method is one module in `methods/`: a dataclass of options, a class per stage of its training, and a `METHOD` that names them. The
loop asks a stage for its losses and makes the backward passes and the optimiser's step. It calls the stage after each step and each
validation. Everything a stage needs to build itself comes from its `StageContext`.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Literal, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

from methods.copy_paste import Pasting
from networks.mean import MeanOfNetworks
from utils.ema import EmaScope, copy_state
from utils.losses import Loss, StepLoss

Batch = dict[str, Tensor]
"""A batch on the networks' device.

"image": (N, C, ...), the labelled cases first, then the unlabelled ones.
"label": (L, ...) int64 class numbers of the labelled cases.
"distance": (L, ...) uint8, only for methods with `Method.distances` and coarse labels. Of each labelled voxel the distance to the
annotated slice that its label was propagated from, 0 on the other annotated slice too, plus 1; 0 outside of the volume.
"plain": the images without the changes of --intensity; only there if that flag is set.
"""
Scalars = dict[str, Tensor | float]
LossFunction = Callable[..., StepLoss]
"""Takes (logits, *targets) and returns the loss of one backward pass."""
PendingTensor = Callable[[], Tensor]
"""A tensor that is still being computed on the host; calling it waits for it."""
MEAN = "mean"
"""Stands for the mean of the softmaxes of all learners, where a network is validated or selected."""
OptionsT = TypeVar("OptionsT")
OptionsT_co = TypeVar("OptionsT_co", covariant=True)


class StageContext(Protocol[OptionsT_co]):
    """What a stage is built from: the options of the run, and what depends on the data set and on the stage."""

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
        """Build a network on the device; each number has its own first weights, the same at every call.

        `model`: its name in the registry of networks, by default the run's `--model`.
        """
        ...

    def state_of(self, stage: str) -> Mapping[str, Any]:
        """Return what an earlier stage of this run saved as its state; empty if it has not run."""
        ...


@dataclass(frozen=True)
class Validation:
    """`score` selects the best checkpoint (higher is better); `scalars` are logged."""

    score: float
    scalars: dict[str, float]


@dataclass(frozen=True)
class CompiledCalls:
    """Compiled replacements for the calls that a stage makes: see `TrainingStage.call`, `forward_with_loss` and `loss_of`."""

    networks: Mapping[str, Callable[..., Any]]
    forward_with_loss: Callable[..., tuple[Tensor, StepLoss]]
    loss_of: Callable[..., StepLoss]


class TrainingStage(Generic[OptionsT]):
    """One stage of a method's training. A subclass has a `name` and implements `losses`.

    The loop calls `begin` once when the stage starts (not when it resumes); then for every step `losses`, the backward passes, the
    optimiser and `after_step`; `after_validation` when a validation is done; and last of all `after_iteration`.

    `networks` holds all networks that a checkpoint keeps, `learners` those that an optimiser trains, each its own. `selected` names the
    network whose validation selects the best checkpoint, and that is tested, exported and passed to the next stage.
    """

    name: ClassVar[str]
    former_state: ClassVar[frozenset[str]] = frozenset()
    """Keys of `state_dict` that older checkpoints of this stage have and that are ignored."""
    selected: str = "student"
    """Name of a network, or `MEAN`."""
    validated: tuple[str, ...] = ()
    """What is validated, in this order: names of networks, or `MEAN`. `selected` comes last if it is
    not among them."""

    def __init__(self, context: StageContext[OptionsT]):
        self.options = context.options
        self.loss = context.loss
        self.networks: dict[str, nn.Module] = {}
        self.learners: dict[str, nn.Module] = {}
        self.models: dict[str, str] = {}
        self.lr_schedules: dict[str, str] = {}
        self.compiled: CompiledCalls | None = None
        self.half_precision_copies: dict[str, nn.Module] = {}
        self._scalars: Scalars = {}
        self._sample: tuple[Tensor, Tensor, Tensor] | None = None
        self.add_learner("student", context.network())

    # networks

    def add_learner(
        self,
        name: str,
        network: nn.Module,
        model: str | None = None,
        lr_schedule: str | None = None,
    ) -> None:
        """Register a network that an optimiser of its own trains.

        `model`: the network's name in the registry of networks if it is not the run's `--model`. `lr_schedule`: the name of its
        learning-rate schedule if it does not follow the run's.
        """
        self.networks[name] = network
        self.learners[name] = network
        if model is not None:
            self.models[name] = model
        if lr_schedule is not None:
            self.lr_schedules[name] = lr_schedule

    def add_teacher(self, name: str, network: nn.Module | None = None) -> nn.Module:
        """Register a network without gradients, in training mode; by default a copy of the student. The method updates it."""
        if network is None:
            network = copy.deepcopy(self.student)
        teacher = network.requires_grad_(False).train()
        self.networks[name] = teacher
        return teacher

    @property
    def student(self) -> nn.Module:
        return self.networks["student"]

    @property
    def teachers(self) -> dict[str, nn.Module]:
        """The networks that do not learn, by name."""
        return {name: net for name, net in self.networks.items() if name not in self.learners}

    def members(self, name: str) -> tuple[str, ...]:
        """Return the names of the networks that `name` stands for: itself, or all learners for `MEAN`."""
        if name == MEAN:
            return tuple(self.learners)
        return (name,)

    def network_to_validate(self, name: str) -> nn.Module:
        """Return the network of that name; for `MEAN` one whose softmax is the mean of all learners' softmaxes."""
        if name == MEAN:
            return MeanOfNetworks(list(self.learners.values()))
        return self.networks[name]

    def call(self, name: str, x: Tensor) -> Tensor:
        """Return the logits (N, K, ...) of one of the networks for images (N, C, ...)."""
        return self._callable(name)(x)

    def call_with_auxiliary(self, name: str, x: Tensor) -> tuple[Tensor, ...]:
        """Return the logits of a network and its auxiliary outputs (`networks.base.Network.auxiliary`) for images (N, C, ...).

        A method that calls this names the outputs in `Method.auxiliary`.
        """
        return self._callable(name)(x, auxiliary=True)

    def _callable(self, name: str) -> Callable[..., Any]:
        """Return what stands for a network in this step: the network itself, its compiled version or its half-precision copy."""
        half_precision = self.half_precision_copies.get(name)
        network = self.networks[name]
        if half_precision is not None and half_precision.training != network.training:
            half_precision.train(network.training)
        if self.compiled is not None:
            return self.compiled.networks[name]
        return network if half_precision is None else half_precision

    def forward(self, x: Tensor) -> Tensor:
        """Return the student's logits (N, K, ...) for images (N, C, ...)."""
        return self.call("student", x)

    def forward_with_loss(
        self, x: Tensor, function: LossFunction, *targets: Any, network: str = "student"
    ) -> tuple[Tensor, StepLoss]:
        """Return a network's logits (N, K, ...) and `function(logits, *targets)`.

        For the student both are compiled as one piece with `--accelerate`. A target may be a `PendingTensor`: it is waited for after the
        pass.
        """
        if self.compiled is not None and network == "student":
            return self.compiled.forward_with_loss(x, function, *resolved(targets))
        logits = self.call(network, x)
        return logits, self.loss_of(function, logits, *resolved(targets))

    def loss_of(self, function: LossFunction, logits: Tensor, *targets: Any) -> StepLoss:
        """Return `function(logits, *targets)`, compiled with `--accelerate`."""
        if self.compiled is not None:
            return self.compiled.loss_of(function, logits, *targets)
        return function(logits, *targets)

    # what a method implements

    def losses(self, batch: Batch, step: int) -> Iterator[StepLoss]:
        """Yield the losses of step `step` (from 0), one for each backward pass.

        The loop makes the backward pass of a loss before it asks for the next one, so a loss that is a sum needs only the memory of
        its largest term. All learners step after the last loss; `loss.then_step(name)` lets one step earlier. Never read a tensor here (`.item()`): the host would wait for the device. Use `log` instead.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement losses")

    def begin(self) -> None:
        """Start the stage; the student already has the weights of an earlier stage. Teachers start as copies of the student."""
        for teacher in self.teachers.values():
            copy_state(teacher, self.student)

    def after_step(self, step: int) -> None:
        """React to the optimisers' step number `step`; EMA teachers are updated here."""

    def after_validation(self, improved: bool) -> None:
        """React to a validation.

        `improved`: its score is above 0 and above the best one before, which some published codes round first
        (`training.stage.StageSetup.score_to_beat`).
        """

    def after_iteration(self, step: int) -> None:
        """React to the end of step `step`, its validation included."""

    # what is saved and shown

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and plain values that restore the stage, without the student's weights."""
        return {name: net.state_dict() for name, net in self.networks.items() if name != "student"}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, net in self.networks.items():
            if name != "student":
                net.load_state_dict(state[name])

    def log(self, name: str, value: Tensor | float) -> None:
        """Log a scalar of this step: a number, or a tensor of one element that stays on its device, without its graph."""
        self._scalars[name] = value.detach() if isinstance(value, Tensor) else value

    def take_logged(self) -> Scalars:
        """Return the scalars logged since the last call, and forget them."""
        scalars = self._scalars
        self._scalars = {}
        return scalars

    def show(self, image: Tensor, logits: Tensor, label: Tensor) -> None:
        """Keep the first sample for `pictures`: image (N, C, ...), logits (N, K, ...), label (N, ...)."""
        # cloned because a recorded CUDA graph overwrites its logits at the next step
        self._sample = (image[0, 0].detach(), logits[0].detach().clone(), label[0])

    def pictures(self) -> dict[str, Tensor]:
        """Return the sample that was kept last: "image", "prediction" and "label", (H, W) each; the middle slice of a volume."""
        if self._sample is None:
            return {}
        image, logits, label = self._sample
        planes = {"image": image.float(), "prediction": logits.argmax(0), "label": label}
        return {name: _middle_slice(plane) for name, plane in planes.items()}


LengthName = Literal["pre_iterations", "max_iterations"]


@dataclass(frozen=True)
class StageSpec:
    """A stage as its method declares it.

    `lengths`: the settings whose sum is the stage's length. `uses_unlabelled`: whether batches hold unlabelled images. `pretraining`:
    whether the pre-training settings (losses, weight decay, schedule) apply. `starts_from`: the stage whose selected network the
    student starts from.
    """

    stage: type[TrainingStage[Any]]
    lengths: tuple[LengthName, ...] = ("max_iterations",)
    uses_unlabelled: bool = True
    pretraining: bool = False
    starts_from: str | None = None

    @property
    def name(self) -> str:
        return self.stage.name


@dataclass(frozen=True)
class Method:
    """What the registry knows of a method.

    `title`: what logs, results and reports call a run of it: a text, or a function of the run's settings. `options`: a frozen dataclass
    whose fields become flags. `stages`: in the order in which they run. `presets`: values that `--method` sets before other flags are
    read. `presets_of_dims`: more of them for data of 2 or 3 dimensions. `required`: options of the network or the data set that the
    method cannot do without, each with the remedy if it is missing. `auxiliary`: what the network must return in addition to its logits
    (`networks.base.Network.auxiliary`). `distances`: with two annotated slices per volume, batches also hold the distance of each
    labelled voxel to its slice, and each label comes from its own slice only.
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


def resolved(targets: Iterable[Any]) -> list[Any]:
    """Return the targets of a loss, pending tensors waited for."""
    return [target() if callable(target) else target for target in targets]


def at_least_float32(x: Tensor) -> Tensor:
    """Return `x` in float32 if it has half precision; float32 and float64 stay as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def add_scalars(total: Scalars, more: Mapping[str, Tensor | float]) -> None:
    """Add scalars to those of the same name in `total`, without their graphs."""
    for name, value in more.items():
        if isinstance(value, Tensor):
            value = value.detach()
        total[name] = total[name] + value if name in total else value


def _middle_slice(x: Tensor) -> Tensor:
    return x if x.ndim == 2 else x[..., x.shape[-1] // 2]
