"""One process or many, started by torchrun: each has its share of the batch, gradients and statistics are averaged."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn

from utils.errors import UserError

T = TypeVar("T")
LARGEST = 2**16
PEER_GONE = (
    "connection closed by peer",
    "connection reset",
    "broken pipe",
    "connection refused",
    "ncclremoteerror",
    "process exiting",
)


def world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    return rank() == 0


@contextmanager
def process_group(device: torch.device) -> Iterator[torch.device]:
    """Join the other processes of torchrun, if there are any, and yield this process's device."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield device
    except RuntimeError as error:
        if not any(words in str(error).lower() for words in PEER_GONE):
            raise
        raise UserError(
            "another process of this run has ended; the last checkpoint is kept: start the same command again"
        ) from None
    finally:
        dist.destroy_process_group()


def check_batch(batch_size: int, labeled_bs: int) -> None:
    """Raise UserError where the batch does not split into halves of both streams for every process."""
    if labeled_bs < 2 or labeled_bs * 2 != batch_size:
        raise UserError(
            f"--labeled_bs {labeled_bs} must be half of --batch_size {batch_size}: labelled and unlabelled images are mixed in pairs"
        )
    if batch_size > LARGEST:
        raise UserError(
            f"--batch_size {batch_size}: {LARGEST} images are the most that a step may have; lower it, and --labeled_bs"
        )
    if labeled_bs % (2 * world()):
        raise UserError(
            f"--labeled_bs {labeled_bs}: must be a multiple of {2 * world()}, two halves for each of {world()} process(es)"
        )


@torch.no_grad()
def share_state(nets: Iterable[nn.Module]) -> None:
    """Every process starts from the main process's networks."""
    if world() > 1:
        for net in nets:
            for tensor in net.state_dict().values():
                dist.broadcast(tensor, 0)


@torch.no_grad()
def average_gradients(nets: Iterable[nn.Module]) -> None:
    """Every process gets the mean of all processes' gradients.

    Once a step, after its last backward pass, in one message: a step has several backward passes, and the gradients of these networks
    are small (7 MB of the U-Net, 38 MB of the V-Net), so that DistributedDataParallel's sending while it computes would gain little.
    """
    if world() == 1:
        return
    gradients = [
        parameter.grad
        for net in nets
        for parameter in net.parameters()
        if parameter.grad is not None
    ]
    message = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(message)
    message.div_(world())
    pieces = message.split([gradient.numel() for gradient in gradients])
    averaged = [piece.view_as(old) for piece, old in zip(pieces, gradients, strict=True)]
    torch._foreach_copy_(gradients, averaged)  # pyright: ignore[reportPrivateImportUsage]  # no public name


@torch.no_grad()
def average_buffers(net: nn.Module) -> None:
    """Every process gets the mean of all processes' batch-norm statistics."""
    if world() > 1:
        for buffer in net.buffers():
            if buffer.is_floating_point():
                dist.all_reduce(buffer)
                buffer.div_(world())


def gathered_buffers(networks: Mapping[str, nn.Module]) -> list[dict] | None:
    """The floating-point statistics of every process's networks, by process: they differ between two averages. None with one process."""
    if world() == 1:
        return None
    return all_parts(
        {
            name: {
                key: buffer.detach().cpu().clone()
                for key, buffer in net.named_buffers()
                if buffer.is_floating_point()
            }
            for name, net in networks.items()
        }
    )


@torch.no_grad()
def restore_buffers(networks: Mapping[str, nn.Module], gathered: Sequence[Mapping] | None) -> None:
    """What `gathered_buffers` gathered goes back into this process's networks, if as many processes run now."""
    if gathered and len(gathered) == world() > 1:
        for name, net in networks.items():
            for key, buffer in net.named_buffers():
                if key in gathered[rank()].get(name, {}):
                    buffer.copy_(gathered[rank()][name][key])


def any_process(flag: int) -> int:
    """The largest of all processes' whole numbers; every process gets the same answer."""
    if world() == 1:
        return flag
    tensor = torch.tensor(
        [flag],
        device=f"cuda:{torch.cuda.current_device()}" if dist.get_backend() == "nccl" else "cpu",
    )
    dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return int(tensor)


def from_main(value: T) -> T:
    """The main process's plain Python value, in every process."""
    if world() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def all_parts(value: T) -> list[T]:
    """Every process's plain Python value, in the processes' order; every process gets the same list."""
    if world() == 1:
        return [value]
    parts = [value] * world()
    dist.all_gather_object(parts, value)
    return parts
