"""One training step: losses, backward passes, gradients of all processes, optimiser."""

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
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    step: int,
    precision: Precision,
) -> Scalars:
    """Make step `step` on a batch that is on the networks' device.

    Returns the scalars of the step, "loss" among them. Tensors among them stay on the device and have no graph.
    """
    for network in stage.learners.values():
        if not network.training:  # a validation leaves it in eval mode
            network.train()
    optimizer.zero_grad(set_to_none=True)
    if stage.compiled is not None:
        # from here on, what recorded graphs returned in the last step may be overwritten
        torch.compiler.cudagraph_mark_step_begin()
    precision.begin_step()
    scalars: Scalars = {}
    for loss in precision.autocast_each(stage.losses(batch, step)):
        precision.backward(loss.total)  # frees the graph of this loss before the next is computed
        add_scalars(scalars, {"loss": loss.total, **loss.scalars})
    average_gradients(stage.learners.values())
    optimizer_scalars = precision.step(optimizer)
    return {**scalars, **stage.take_logged(), **optimizer_scalars}
