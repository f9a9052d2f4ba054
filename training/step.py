"""The arithmetic of one step: losses, their backward passes, the gradients of all processes, the optimiser."""

from collections.abc import Iterator

import torch

from training.device import place
from training.distributed import average_gradients
from training.precision import Precision
from utils.phase import Batch, Losses, Phase, added, parts


def placed(batch: Batch, device: torch.device, dims: int) -> Batch:
    """A batch on the device, class numbers as int64; from pinned memory the host does not wait for it."""
    return {
        key: x.to(device, non_blocking=True).long() if key == "label" else place(x, device, dims)
        for key, x in batch.items()
    }


def learn(
    phase: Phase, optimizer: torch.optim.Optimizer, batch: Batch, step: int, precision: Precision
) -> Losses:
    """Make step `step` on a batch on the networks' device; its scalars stay on the device, without graphs."""
    for net in phase.learners.values():
        if not net.training:  # a validation was made
            net.train()
    optimizer.zero_grad(set_to_none=True)
    if phase.faster:
        torch.compiler.cudagraph_mark_step_begin()  # what recorded graphs gave in the last step may be overwritten
    precision.begin_step()
    scalars = added(_backward_passes(phase, batch, step, precision))
    average_gradients(phase.learners.values())
    return {**scalars, **precision.step(optimizer)}


def _backward_passes(
    phase: Phase, batch: Batch, step: int, precision: Precision
) -> Iterator[Losses]:
    """The parts of the step's losses, each after its backward pass, before the next is computed."""
    with precision.autocast():
        losses = parts(phase.losses(batch, step))
    while True:
        with precision.autocast():
            part = next(losses, None)
        if part is None:
            return
        if "loss" in part:
            precision.backward(part["loss"])
        yield part
