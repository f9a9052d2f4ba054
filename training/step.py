"""One training step: losses, backward passes, gradients of all processes, optimisers."""

from collections.abc import Iterable, Mapping

import torch

from methods.base import Batch, Scalars, TrainingStage, add_scalars
from training.device import place
from training.distributed import average_gradients
from training.precision import Precision


def placed(batch: Batch, device: torch.device, dims: int) -> Batch:
    """Return a batch on the device, class numbers as int64; from pinned memory the host does not wait for it."""
    moved = {}
    for key, x in batch.items():
        if key == "label":
            moved[key] = x.to(device, non_blocking=True).long()
        else:
            moved[key] = place(x, device, dims)
    return moved


def train_step(
    stage: TrainingStage,
    optimizers: Mapping[str, torch.optim.Optimizer],
    batch: Batch,
    step: int,
    precision: Precision,
) -> Scalars:
    """Make step `step` on a batch that is on the networks' device.

    `optimizers`: one for each learner. They step after the last loss, or where a loss says so (`StepLoss.then_step`).
    Returns the scalars of the step, "loss" among them. Tensors among them stay on the device and have no graph.
    """
    for network in stage.learners.values():
        if not network.training:  # a validation leaves it in eval mode
            network.train()
    for optimizer in optimizers.values():
        optimizer.zero_grad(set_to_none=True)
    if stage.compiled is not None:
        # from here on, what recorded graphs returned in the last step may be overwritten
        torch.compiler.cudagraph_mark_step_begin()
    precision.begin_step()
    scalars: Scalars = {}
    waiting = list(stage.learners)
    for loss in precision.autocast_each(stage.losses(batch, step)):
        precision.backward(loss.total)  # frees the graph of this loss before the next is computed
        add_scalars(scalars, {"loss": loss.total, **loss.scalars})
        early = loss.steps_now
        if early is not None:
            if early not in waiting:
                raise ValueError(f"{stage.name}: no learner '{early}' that has still to step")
            waiting.remove(early)
            step_learners([early], stage, optimizers, precision)
    step_learners(waiting, stage, optimizers, precision)
    return {**scalars, **stage.take_logged(), **precision.end_step()}


def step_learners(
    names: Iterable[str],
    stage: TrainingStage,
    optimizers: Mapping[str, torch.optim.Optimizer],
    precision: Precision,
) -> None:
    """Average the gradients of these learners over all processes and let their optimisers step."""
    names = list(names)
    average_gradients([stage.learners[name] for name in names])
    for name in names:
        precision.step(optimizers[name])
