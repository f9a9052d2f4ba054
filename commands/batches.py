"""How training data reach the network: data loaders, their processes, and images on the device."""

import math
from typing import Any

import torch
from torch.utils.data import DataLoader

from dataloaders.samples import Samples, as_it_is
from dataloaders.two_stream import StreamSampler
from training.config import DataOptions
from training.distributed import rank, world
from training.outside_faults import LOADER_TIMEOUT
from training.signals import leave_to_main_process
from utils.errors import UserError
from utils.shared_memory import check_room


def on_device(options: DataOptions) -> bool:
    """Whether the training images are kept on the device."""
    return getattr(options, "cache", None) == "device"


def move_to_device(data: Samples, options: DataOptions, device: torch.device) -> None:
    """Move the training images to the device.

    Raises UserError if they do not fit, or if an augmentation needs more than picking voxels.
    """
    for flag, names in (("intensity", options.intensity), ("spatial", options.spatial)):
        if names:
            raise UserError(f"--{flag} {names[0]}: is computed on the host; remove --cache device")
    try:
        data.place(device)
    except torch.OutOfMemoryError:
        raise UserError(
            f"--cache device: the training images do not fit into the memory of {device}; remove it"
        ) from None


def worker_count(options: DataOptions, device: torch.device) -> int:
    """Number of processes that prepare batches."""
    if on_device(options):
        return 0
    if options.num_workers >= 0:
        return options.num_workers
    if device.type == "cuda":
        return 4
    return 0


def check_shared_memory(options: DataOptions, device: torch.device, channels: int) -> None:
    """Raise UserError if the processes that prepare batches have too little shared memory.

    Two batches of each process wait there, and one is in use.
    """
    workers = worker_count(options, device)
    if workers:
        needed = (2 * workers + 1) * batch_bytes(options, channels)
        check_room("num_workers", workers, needed)


def batch_bytes(options: DataOptions, channels: int) -> int:
    """Bytes of the images and labels of a batch, all processes of the run together."""
    voxels = math.prod(options.patch_size)
    return voxels * (4 * channels * options.batch_size + options.labeled_bs)


def build_sampler(
    kind: type[StreamSampler],
    options: DataOptions,
    *,
    labelled: int,
    unlabelled: int,
    seed: tuple[int, ...],
    steps: range,
) -> StreamSampler:
    """Return a sampler of this process's batches.

    `labelled`, `unlabelled`: numbers of cases; without unlabelled ones a batch has only its
    labelled part.
    """
    unlabelled_bs = 0
    if unlabelled:
        unlabelled_bs = options.batch_size - options.labeled_bs
    return kind(
        labelled=labelled,
        unlabelled=unlabelled,
        labelled_bs=options.labeled_bs,
        unlabelled_bs=unlabelled_bs,
        seed=seed,
        steps=steps,
        rank=rank(),
        world=world(),
    )


def loader(
    data: Samples, sampler: StreamSampler, options: DataOptions, device: torch.device
) -> DataLoader[Any]:
    """The batches of a sampler, prepared by other processes or on the device."""
    workers = worker_count(options, device)
    timeout = 0
    if workers:
        timeout = LOADER_TIMEOUT
    return DataLoader(
        data,
        batch_sampler=sampler,
        collate_fn=as_it_is,  # pyright: ignore[reportArgumentType]
        num_workers=workers,
        worker_init_fn=leave_to_main_process,
        timeout=timeout,
        pin_memory=device.type == "cuda" and not on_device(options),
    )
