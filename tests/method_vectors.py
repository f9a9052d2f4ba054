"""Recorded iterations of published methods, run again through the training loop
(tests/vectors/methods/README.md).

A `MethodVector` says how a method is set up for one vector. `record` trains it and returns what the
loop did; the `assert_` functions compare that with the published run, to the tolerances that the
README states.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import LOSS_2D, Context
from reference import VECTORS, batches, fill, predictable
from torch import Tensor, nn

from methods.base import Batch, TrainingStage, Validation
from methods.stage_networks import MEAN
from networks import net_factory_ega, net_factory_la_ega
from networks.registry import build
from training.checkpoint import load
from training.log import RunLog, StageLog
from training.loop import Run, StageSetup, run_stages
from utils.losses import Loss
from utils.schedules import SCHEDULES, Schedule, constant

CPU = torch.device("cpu")
SCORES = (
    (0.30, 0.20, 0.40, 0.35),
    (0.35, 0.40, 0.20, 0.30),
    (0.25, 0.45, 0.10, 0.50),
)
"""Scores of four validations, of the network that is validated first, second and third."""


def plain_unet() -> nn.Module:
    return net_factory_ega.net_factory("unet", egm="none")


def plain_vnet() -> nn.Module:
    return net_factory_la_ega.net_factory("VNet", egm="none")


def same_name(key: str) -> str:
    return key


def same_batch(batch: Batch) -> Batch:
    return batch


def no_patches(patch: pytest.MonkeyPatch, clock: "Clock") -> None:
    """Replace nothing but what every vector replaces."""


@dataclass
class Clock:
    """The iteration that is being computed; what a test puts in place of a random draw reads it."""

    iteration: int = 0


@dataclass(frozen=True)
class MethodVector:
    """How a method is set up for a vector.

    `names`: plain names of the vector's losses ("loss", "loss_ce", ...) and what the loop logs them
    as. `networks`: the vector's names of networks and ours. `heads`: our learners whose entries are
    in the published student; `unused`: beginnings of published names that we have no entry for.
    `suffixes`: what is added to a key before network number 0, 1, ... is filled. `sharper`: factor
    on `decoder.out_conv.weight`. `published_key`: the published name of an entry of our state
    dicts. `schedule`: factor on `base_lr`. `patches`: replaces what the method draws at random,
    except Gaussian noise. `prepared`: makes of the vector's batch the one that the method learns
    from. `exact`: names of losses whose first iterations agree to 1e-4 for another number of
    iterations than the vector states. `noise_number`: (iteration, how many draws of noise it made
    before) to the number of the draw in the README's rule.
    """

    stage: type[TrainingStage[Any]]
    options: object
    names: Mapping[str, str]
    networks: Mapping[str, str] = field(default_factory=lambda: {"student": "student"})
    heads: Sequence[str] = ()
    unused: tuple[str, ...] = ()
    loss: Loss = LOSS_2D
    build: Callable[[], nn.Module] = plain_unet
    suffixes: Sequence[str] = ("", "/2")
    sharper: float = 1.0
    published_key: Callable[[str], str] = same_name
    base_lr: float = 0.01
    schedule: Schedule = constant
    optimizer: type[torch.optim.Optimizer] = torch.optim.SGD
    weight_decay: float = 1e-4
    patches: Callable[[pytest.MonkeyPatch, Clock], None] = no_patches
    noise_number: Callable[[int, int], int] = lambda iteration, draw: iteration
    exact: Mapping[str, int] = field(default_factory=dict[str, int])
    prepared: Callable[[Batch], Batch] = same_batch

    def network(self, number: int = 0, model: str | None = None) -> nn.Module:
        """Return the network of that number, filled by name; `model`: the registry's name of
        another network than the first.
        """
        net = self.build()
        if model is not None:
            net = build(model, 1, 4, {})
        state: dict[str, Tensor] = {}
        for key, value in net.state_dict().items():
            if key.endswith("num_batches_tracked"):
                state[key] = value
                continue
            published = self.published_key(key)
            state[key] = fill(published, value.shape, self.suffixes[number])
            if published == "decoder.out_conv.weight":
                state[key] = self.sharper * state[key]
        net.load_state_dict(state)
        return predictable(net)


@dataclass
class VectorContext(Context):
    """The context of a stage that is run for a vector."""

    vector: MethodVector | None = None

    @property
    def options(self) -> Any:
        assert self.vector is not None
        return self.vector.options

    def network(self, number: int = 0, model: str | None = None) -> nn.Module:
        assert self.vector is not None
        return self.vector.network(number, model)


@dataclass
class Recording:
    """What the loop did: logged scalars of each step, [iteration, rate] of each optimiser step,
    passes, validations, last checkpoint.
    """

    scalars: list[dict[str, float]] = field(default_factory=list)
    rates: list[tuple[int, float]] = field(default_factory=list)
    passes: list[list[Any]] = field(default_factory=list)
    validated: list[list[Any]] = field(default_factory=list)
    checkpoint: dict[str, Any] = field(default_factory=dict)


def published_run(name: str) -> dict[str, Any]:
    """Return a vector of tests/vectors/methods."""
    path = VECTORS / "methods" / f"trajectory_{name}.json"
    return json.loads(path.read_text(encoding="utf-8"))


def noise(x: Tensor, number: int) -> Tensor:
    """Return what replaces draw `number` of standard-normal noise of the shape of x: 2.5
    sin(k + number) for entry k.
    """
    entries = torch.arange(x.numel(), dtype=torch.float64)
    return (2.5 * torch.sin(entries + number)).reshape(x.shape).to(x.dtype)


def record(name: str, vector: MethodVector, folder: Path) -> Recording:
    """Train the method on the vector's batches, by the loop that users train with."""
    published = published_run(name)
    dims = len(published["passes"]["rows"][0][3]) - 2
    steps = published["steps"]
    with pytest.MonkeyPatch.context() as patch:
        clock = Clock()
        recording = Recording()
        patch.setattr("methods.helpers.STEPS_PER_EPOCH", 2)  # the vectors' e = t // 2
        # The published memory format: another one rounds differently.
        patch.setattr("training.device.memory_format", lambda *arguments: torch.contiguous_format)
        _replace_noise(patch, clock, vector)
        vector.patches(patch, clock)
        _keep_scalars(patch, recording)
        context = VectorContext(nn.Identity(), vector.loss, dims=dims, length=steps, vector=vector)
        stage = vector.stage(context)
        ours = {name: theirs for theirs, name in vector.networks.items()}
        _follow_iterations(stage, clock)
        _keep_passes(stage, clock, recording, ours)
        validate = None  # the last network is the result
        if published["validated"]:
            validate = _validation(stage, recording, ours)
        setup = StageSetup(
            stage=stage,
            optimizers=_optimizers(stage, vector, clock, recording),
            steps=steps,
            val_every=2,
            batches=lambda steps: map(vector.prepared, batches(dims, False, torch.float32, steps)),
            validate=validate,
            learning_rate=lambda step: vector.base_lr * vector.schedule(step, steps),
            own_learning_rates={
                name: partial(_rate, vector.base_lr, own, steps)
                for name, own in stage.lr_schedules.items()
            },
            seed=(0,),
        )
        about = {"settings": {}, "facts": {}, "selection": ""}
        log = RunLog(folder)
        run = Run(folder, lambda stage: "best.pth", about, CPU, dims, None, log)
        run_stages(run, {stage.name: lambda: setup})
        log.close()
        recording.checkpoint = load(folder / stage.name / "last.pth")
    return recording


def _replace_noise(patch: pytest.MonkeyPatch, clock: Clock, vector: MethodVector) -> None:
    last = clock.iteration
    draws = 0

    def randn_like(x: Tensor, **options: Any) -> Tensor:
        nonlocal last, draws
        if clock.iteration != last:
            last = clock.iteration
            draws = 0
        draws += 1
        return noise(x, vector.noise_number(clock.iteration, draws - 1))

    patch.setattr(torch, "randn_like", randn_like)


def _keep_scalars(patch: pytest.MonkeyPatch, recording: Recording) -> None:
    log_step = StageLog.step

    def step(self: StageLog, number: int, scalars: dict[str, float]) -> None:
        recording.scalars.append({name: float(value) for name, value in scalars.items()})
        log_step(self, number, scalars)

    patch.setattr(StageLog, "step", step)


def _follow_iterations(stage: TrainingStage[Any], clock: Clock) -> None:
    losses = stage.losses

    def followed(batch: dict[str, Tensor], step: int) -> Iterator[Any]:
        clock.iteration = step
        yield from losses(batch, step)

    stage.losses = followed


def _keep_passes(
    stage: TrainingStage[Any], clock: Clock, recording: Recording, names: Mapping[str, str]
) -> None:
    for ours, net in stage.networks.items():

        def keep(
            net: nn.Module, inputs: tuple[Any, ...], name: str = names.get(ours, ours)
        ) -> None:
            mode = "train" if net.training else "eval"
            gradient = "grad" if torch.is_grad_enabled() else "no_grad"
            shape = list(inputs[0].shape)
            recording.passes.append([clock.iteration, name, mode, shape, gradient])

        net.register_forward_pre_hook(keep)


def _rate(base_lr: float, schedule: str, steps: int, step: int) -> float:
    return base_lr * SCHEDULES[schedule](step, steps)


def _optimizers(
    stage: TrainingStage[Any], vector: MethodVector, clock: Clock, recording: Recording
) -> dict[str, torch.optim.Optimizer]:
    options: dict[str, float] = {"lr": vector.base_lr, "weight_decay": vector.weight_decay}
    if vector.optimizer is torch.optim.SGD:
        options["momentum"] = 0.9

    def keep(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        recording.rates.append((clock.iteration, optimizer.param_groups[0]["lr"]))

    optimizers: dict[str, torch.optim.Optimizer] = {}
    for name, learner in stage.learners.items():
        optimizers[name] = vector.optimizer(learner.parameters(), **options)
        if name not in vector.heads:  # published, they share the student's optimiser
            optimizers[name].register_step_pre_hook(keep)
    return optimizers


def _validation(
    stage: TrainingStage[Any], recording: Recording, names: Mapping[str, str]
) -> Callable[[nn.Module, Callable[[], bool], int], Validation]:
    order: list[str] = []  # networks, as they are validated for the first time

    def validate(net: nn.Module, stopped: Callable[[], bool], step: int) -> Validation:
        ours = MEAN
        for name, other in stage.networks.items():
            if other is net:
                ours = name
        if ours not in order:
            order.append(ours)
        score = SCORES[order.index(ours)][step // 2 - 1]
        recording.validated.append([step, names.get(ours, ours), score])
        return Validation(score, {})

    return validate


# comparison with the published run


def loss_difference(name: str, recording: Recording, plain: str, ours: str) -> np.ndarray:
    """Return the relative difference of a logged scalar from the published one at every iteration."""
    published = published_run(name)
    expected = np.array(published["losses"][published["names"][plain]])
    got = np.array([scalars[ours] for scalars in recording.scalars])
    assert got.shape == expected.shape
    return np.abs(got - expected) / np.maximum(np.abs(expected), 1e-12)


def rounding(name: str, kind: str) -> float:
    """Largest rounding of a published run: of its "loss", of "all" named losses, or of "weights".

    On volumes, float64 was run for some of the iterations only; another memory format shows the
    rounding of all of them.
    """
    published = published_run(name)
    sizes: list[float] = []
    for key in ("rounding", "rounding_channels_last"):
        sizes += np.ravel(published.get(key, {}).get(kind) or []).tolist()
    return max(sizes)


def assert_losses_as_published(name: str, vector: MethodVector, recording: Recording) -> None:
    """The total loss to 1e-4 while float32 allows it, then to five times the published run's
    rounding; named losses likewise.
    """
    published = published_run(name)
    for plain, ours in vector.names.items():
        kind = "all"
        if plain == "loss":
            kind = "loss"
        exact = vector.exact.get(plain, published["exact"][kind])
        later = max(5e-4, 5 * rounding(name, kind))
        difference = loss_difference(name, recording, plain, ours)
        assert difference[:exact].max(initial=0) < 1e-4, f"{plain}: {difference}"
        assert difference.max() < later, f"{plain}: {difference}"


def weight_differences(
    name: str, vector: MethodVector, recording: Recording
) -> dict[str, dict[str, float]]:
    """Return, by network and published key, the largest difference of a tensor's first 32 entries
    relative to its largest entry.
    """
    differences: dict[str, dict[str, float]] = {}
    for theirs, tensors in published_run(name)["weights"].items():
        state = _state(recording, vector.networks[theirs])
        by_published_key = {vector.published_key(key): value for key, value in state.items()}
        for head in vector.heads:
            by_published_key.update(_state(recording, head))
        differences[theirs] = {}
        for key, values in tensors.items():
            if vector.unused and key.startswith(vector.unused):
                continue
            expected = np.array(values)
            got = by_published_key[key].flatten()[:32].numpy()
            differences[theirs][key] = np.abs(got - expected).max() / np.abs(expected).max()
    return differences


def assert_weights_as_published(name: str, vector: MethodVector, recording: Recording) -> None:
    """Learners to 1e-3 of a tensor's largest entry, teachers to 1e-4, or to three times the
    published run's rounding.
    """
    of_all = rounding(name, "weights")
    of_networks = published_run(name)["rounding"].get("weights_of") or {}
    for network, differences in weight_differences(name, vector, recording).items():
        tolerance = max(1e-3, 3 * of_all)
        if "teacher" in network:
            tolerance = max(1e-4, 3 * of_networks.get(network, of_all))
        for key, difference in differences.items():
            assert difference < tolerance, f"{network} {key}: {difference}"


def _state(recording: Recording, network: str) -> dict[str, Tensor]:
    if network == "student":
        return recording.checkpoint["student"]
    return recording.checkpoint["phase"][network]


def assert_passes_as_published(name: str, recording: Recording) -> None:
    """Order, mode, input and gradient of the first iterations' passes: the order in which
    batch-norm statistics move.
    """
    rows = published_run(name)["passes"]["rows"]
    last = rows[-1][0]
    assert [row for row in recording.passes if row[0] <= last] == rows


def assert_rates_as_published(name: str, recording: Recording) -> None:
    """The learning rate of every optimiser step."""
    expected = np.array(published_run(name)["lr_used"])
    np.testing.assert_allclose(np.array(recording.rates), expected, rtol=1e-6)


def assert_selection_as_published(name: str, vector: MethodVector, recording: Recording) -> None:
    """The selected network is validated after the published iterations, and the published best one
    is kept.

    Where the published code validates nothing, the last network is kept.
    """
    published = published_run(name)
    progress = recording.checkpoint["progress"]
    if not published["validated"]:
        assert progress["best_step"] == published["steps"]
        return
    ours = {mine: theirs for theirs, mine in vector.networks.items()}
    selected = recording.checkpoint["selected"]
    selected = ours.get(selected, selected)
    expected = [row for row in published["validated"] if row[1] == selected]
    assert [row for row in recording.validated if row[1] == selected] == expected
    best = max(expected, key=lambda row: row[2])
    assert (progress["best_step"], progress["best_score"]) == (best[0], best[2])
