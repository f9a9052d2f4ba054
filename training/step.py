"""One training step: losses, backward passes, mean gradients of all processes, optimisers."""

from collections.abc import Mapping
from typing import Any

import torch

from methods.base import Batch, TrainingStage
from methods.stage_networks import Scalars, add_scalars
from training.device import place
from training.distributed import average_gradients
from training.precision import Precision


def placed(batch: Batch, device: torch.device, dims: int) -> Batch:
    """Return a batch on the device, class numbers as int64.

    The host does not wait for a batch in pinned memory.
    """
    moved: Batch = {}
    for key, x in batch.items():
        if key == "label":
            moved[key] = x.to(device, non_blocking=True).long()
        elif key == "distance":
            moved[key] = x.to(device, non_blocking=True)
        else:
            moved[key] = place(x, device, dims)
    return moved


def train_step(
    stage: TrainingStage[Any],
    optimizers: Mapping[str, torch.optim.Optimizer],
    batch: Batch,
    step: int,
    precision: Precision,
) -> Scalars:
    """Make step `step` on a batch that is on the networks' device.

    `optimizers`: one for each learner. A learner steps after the last loss, or right after the loss
    that asks for it (`StepLoss.then_step`). Returns the scalars of the step, "loss" among them.
    Tensors among them stay on the device and have no graph.
    """
    for network in stage.learners.values():
        if not network.training:  # a validation leaves it in eval mode
            network.train()
    if stage.compiled is not None:
        # from here on, results that recorded graphs returned in the last step may be overwritten
        torch.compiler.cudagraph_mark_step_begin()
    precision.begin_step()
    for optimizer in optimizers.values():
        optimizer.zero_grad(set_to_none=True)
    scalars: Scalars = {}
    waiting = list(stage.learners)
    # The forward pass of a loss runs when the loss is asked for.
    for loss in precision.autocast_each(stage.losses(batch, step)):
        # frees the graph before the next forward pass
        precision.scaled(loss.total).backward()  # pyright: ignore[reportUnknownMemberType]
        add_scalars(scalars, {"loss": loss.total, **loss.scalars})
        early = loss.steps_now
        if early is not None:
            if early not in waiting:
                raise ValueError(f"{stage.name}: no learner '{early}' that has still to step")
            waiting.remove(early)
            average_gradients([stage.learners[early]])
            precision.step(optimizers[early])
    average_gradients([stage.learners[name] for name in waiting])
    for name in waiting:
        precision.step(optimizers[name])
    return {**scalars, **stage.take_logged(), **precision.end_step()}
