"""The networks of a training stage: how they are registered, called, logged and shown."""

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from networks.mean import MeanOfNetworks
from utils.losses import StepLoss

Scalars = dict[str, Tensor | float]
LossFunction = Callable[..., StepLoss]
"""Takes (logits, *targets) and returns the loss of one backward pass."""
PendingTensor = Callable[[], Tensor]
"""A tensor that is still being computed on the host; calling it waits for it."""
MEAN = "mean"
"""Stands for the mean of all learners' softmaxes, where a network is validated or selected."""

PSEUDO_SHARE = "pseudo_share_"
"""Start of the names of scalars that have the share of a class, by its number, in the pseudo labels
of a step.
"""


@dataclass(frozen=True)
class CompiledCalls:
    """Compiled replacements for the calls that a stage makes: see `TrainingStage.call`,
    `forward_with_loss` and `loss_of`.
    """

    networks: Mapping[str, Callable[..., Any]]
    forward_with_loss: Callable[..., tuple[Tensor, StepLoss]]
    loss_of: Callable[..., StepLoss]


class StageNetworks:
    """The networks of a stage by name, and what the stage logs and shows.

    Compiled and half-precision versions of the networks replace them in calls by name.
    """

    def __init__(self) -> None:
        self.networks: dict[str, nn.Module] = {}
        self.learners: dict[str, nn.Module] = {}
        self.models: dict[str, str] = {}
        self.lr_schedules: dict[str, str] = {}
        self.compiled: CompiledCalls | None = None
        self.half_precision_copies: dict[str, nn.Module] = {}
        self._scalars: Scalars = {}
        self._sample: tuple[Tensor, Tensor, Tensor] | None = None

    def add_learner(
        self,
        name: str,
        network: nn.Module,
        model: str | None = None,
        lr_schedule: str | None = None,
    ) -> None:
        """Register a network that an optimiser of its own trains.

        `model`: the network's name in the registry of networks if it is not the run's `--model`.
        `lr_schedule`: the name of its learning-rate schedule if it does not follow the run's.
        """
        self.networks[name] = network
        self.learners[name] = network
        if model is not None:
            self.models[name] = model
        if lr_schedule is not None:
            self.lr_schedules[name] = lr_schedule

    def add_teacher(self, name: str, network: nn.Module | None = None) -> nn.Module:
        """Register a network without gradients, in training mode; by default a copy of the student.

        The method updates it.
        """
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
        """Return the names of the networks that `name` stands for: itself, or all learners for
        `MEAN`.
        """
        if name == MEAN:
            return tuple(self.learners)
        return (name,)

    def network_to_validate(self, name: str) -> nn.Module:
        """Return the network of that name; for `MEAN` one whose softmax is the mean of all
        learners' softmaxes.
        """
        if name == MEAN:
            return MeanOfNetworks(list(self.learners.values()))
        return self.networks[name]

    def call(self, name: str, x: Tensor) -> Tensor:
        """Return the logits (N, K, ...) of one of the networks for images (N, C, ...)."""
        return self._callable(name)(x)

    def call_with_auxiliary(self, name: str, x: Tensor) -> tuple[Tensor, ...]:
        """Return the logits of a network and its auxiliary outputs
        (`networks.base.Network.auxiliary`) for images (N, C, ...).

        A method that calls this names the outputs in `Method.auxiliary`.
        """
        return self._callable(name)(x, auxiliary=True)

    def _callable(self, name: str) -> Callable[..., Any]:
        """Return what stands for a network in this step: the network itself, its compiled version
        or its half-precision copy.
        """
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

        For the student both are compiled as one piece with `--accelerate`. A target may be a
        `PendingTensor`: it is waited for after the pass.
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

    # what is logged and shown

    def log(self, name: str, value: Tensor | float) -> None:
        """Log a scalar of this step: a number, or a tensor of one element that stays on its device,
        without its graph.
        """
        self._scalars[name] = value.detach() if isinstance(value, Tensor) else value

    def take_logged(self) -> Scalars:
        """Return the scalars logged since the last call, and forget them."""
        scalars = self._scalars
        self._scalars = {}
        return scalars

    def show(self, image: Tensor, logits: Tensor, label: Tensor) -> None:
        """Keep the first sample for `pictures`: image (N, C, ...), logits (N, K, ...), label
        (N, ...).
        """
        # cloned because a recorded CUDA graph overwrites its logits at the next step
        self._sample = (image[0, 0].detach(), logits[0].detach().clone(), label[0])

    def pictures(self) -> dict[str, Tensor]:
        """Return the sample that was kept last: "image", "prediction" and "label", (H, W) each; the
        middle slice of a volume.
        """
        if self._sample is None:
            return {}
        image, logits, label = self._sample
        planes = {"image": image.float(), "prediction": logits.argmax(0), "label": label}
        return {name: _middle_slice(plane) for name, plane in planes.items()}


def resolved(targets: Iterable[Any]) -> list[Any]:
    """Return the targets of a loss, pending tensors waited for."""
    values: list[Any] = []
    for target in targets:
        if callable(target):
            target = target()
        values.append(target)
    return values


def add_scalars(total: Scalars, more: Mapping[str, Tensor | float]) -> None:
    """Add scalars to those of the same name in `total`, without their graphs."""
    for name, value in more.items():
        if isinstance(value, Tensor):
            value = value.detach()
        if name in total:
            total[name] = total[name] + value
        else:
            total[name] = value


def _middle_slice(x: Tensor) -> Tensor:
    return x if x.ndim == 2 else x[..., x.shape[-1] // 2]
