"""One process, or several that torchrun started.

Each process has its share of the batch. Gradients and batch-norm statistics are averaged.
"""

# torch does not annotate these functions.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import os
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from utils.errors import UserError
from utils.pseudo_label import copy_all

T = TypeVar("T")
LARGEST = 2**16
Buffers = Mapping[str, Mapping[str, Tensor]]
"""Floating-point buffers of one process, by network and by name."""
PEER_GONE = (
    "connection closed by peer",
    "connection reset",
    "broken pipe",
    "connection refused",
    "ncclremoteerror",
    "process exiting",
)


def world() -> int:
    """Return the number of processes."""
    if not dist.is_initialized():
        return 1
    return dist.get_world_size()


def rank() -> int:
    """Return the number of this process, from 0."""
    if not dist.is_initialized():
        return 0
    return dist.get_rank()


def is_main() -> bool:
    """Return whether this process writes files and messages."""
    return rank() == 0


@contextmanager
def process_group(device: torch.device) -> Generator[torch.device, None, None]:
    """Join the other processes of torchrun, if any, and yield the device of this process."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
        dist.init_process_group("nccl")
    else:
        dist.init_process_group("gloo")
    try:
        yield device
    except RuntimeError as error:
        if not any(words in str(error).lower() for words in PEER_GONE):
            raise
        raise UserError(
            "another process of this run has ended; the last checkpoint is kept: "
            "start the same command again"
        ) from None
    finally:
        dist.destroy_process_group()


def check_batch(batch_size: int, labeled_bs: int) -> None:
    """Raise UserError unless every process gets two halves of labelled and unlabelled images."""
    if labeled_bs < 2:
        raise UserError(
            f"--labeled_bs {labeled_bs}: must be at least 2, because labelled images are mixed in "
            "pairs; set --batch_size to twice as many"
        )
    if labeled_bs * 2 != batch_size:
        raise UserError(
            f"--labeled_bs {labeled_bs} must be half of --batch_size {batch_size}: "
            "labelled and unlabelled images are mixed in pairs"
        )
    if batch_size > LARGEST:
        raise UserError(
            f"--batch_size {batch_size}: a step may have at most {LARGEST} images; "
            "lower it, and --labeled_bs"
        )
    if labeled_bs % (2 * world()):
        raise UserError(
            f"--labeled_bs {labeled_bs}: must be a multiple of {2 * world()}, "
            f"two halves for each of {world()} process(es)"
        )


@torch.no_grad()
def share_state(networks: Iterable[nn.Module]) -> None:
    """Copy the main process's networks into those of all other processes."""
    if world() == 1:
        return
    for network in networks:
        for tensor in network.state_dict().values():
            dist.broadcast(tensor, 0)


@torch.no_grad()
def average_gradients(networks: Iterable[nn.Module]) -> None:
    """Replace the gradients by the mean of all processes' gradients.

    Called once in a step for each learner, after its last backward pass; all gradients are one
    message (docs/decisions/6-gradient-averaging.md: why not DistributedDataParallel).
    """
    if world() == 1:
        return
    gradients: list[Tensor] = []
    for network in networks:
        for parameter in network.parameters():
            if parameter.grad is not None:
                gradients.append(parameter.grad)
    if not gradients:
        return
    message = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(message)
    message.div_(world())
    pieces = message.split([gradient.numel() for gradient in gradients])
    averaged = [piece.view_as(old) for piece, old in zip(pieces, gradients, strict=True)]
    copy_all(gradients, averaged)


@torch.no_grad()
def average_buffers(network: nn.Module) -> None:
    """Replace batch-norm statistics by the mean of all processes' statistics."""
    if world() == 1:
        return
    for buffer in network.buffers():
        if buffer.is_floating_point():
            dist.all_reduce(buffer)
            buffer.div_(world())


def gathered_buffers(networks: Mapping[str, nn.Module]) -> list[Buffers] | None:
    """Return the floating-point buffers of every process, in the order of the processes.

    They differ from process to process between two averages. None with one process.
    """
    if world() == 1:
        return None
    buffers: dict[str, dict[str, Tensor]] = {}
    for name, network in networks.items():
        buffers[name] = {}
        for key, buffer in network.named_buffers():
            if buffer.is_floating_point():
                buffers[name][key] = buffer.detach().cpu().clone()
    return all_parts(buffers)


@torch.no_grad()
def restore_buffers(networks: Mapping[str, nn.Module], gathered: Sequence[Buffers] | None) -> None:
    """Copy what `gathered_buffers` returned back, if there are as many processes as then."""
    if world() == 1 or not gathered or len(gathered) != world():
        return
    buffers = gathered[rank()]
    for name, network in networks.items():
        saved = buffers.get(name, {})
        for key, buffer in network.named_buffers():
            if key in saved:
                buffer.copy_(saved[key])


def largest_of_processes(number: int) -> int:
    """Return the largest of all processes' whole numbers, in every process."""
    if world() == 1:
        return number
    device = "cpu"
    if dist.get_backend() == "nccl":
        device = f"cuda:{torch.cuda.current_device()}"
    tensor = torch.tensor([number], device=device)
    dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return int(tensor)


def from_main(value: T) -> T:
    """Return the main process's plain Python value, in every process."""
    if world() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def all_parts(value: T) -> list[T]:
    """Return the plain Python values of all processes, in their order, in every process."""
    if world() == 1:
        return [value]
    parts = [value] * world()
    dist.all_gather_object(parts, value)
    return parts
