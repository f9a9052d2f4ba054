"""How a run's training data reach the network: loaders, processes that prepare batches, images kept on the device."""

import math

import torch
from torch.utils.data import DataLoader

from dataloaders.samples import Samples, as_it_is
from dataloaders.two_stream import StreamSampler
from training.faults import LOADER_TIMEOUT
from training.settings import Settings
from training.signals import leave_to_main_process
from utils.errors import UserError
from utils.shared_memory import check_room


def on_device(settings: Settings) -> bool:
    """Whether the training images are kept on the device."""
    return getattr(settings, "cache", None) == "device"


def move_to_device(data: Samples, settings: Settings, device: torch.device) -> None:
    """Raises UserError where the images do not fit, or what is drawn for them is not only picking of voxels."""
    for flag, names in (("intensity", settings.intensity), ("spatial", settings.spatial)):
        if names:
            raise UserError(
                f"--{flag} {names[0]}: is computed on the host; leave --cache device out"
            )
    try:
        data.place(device)
    except torch.OutOfMemoryError:
        raise UserError(
            f"--cache device: the training images do not fit into the memory of {device}; leave it out"
        ) from None


def worker_count(settings: Settings, device: torch.device) -> int:
    """Processes that prepare batches."""
    if on_device(settings):
        return 0
    if settings.num_workers >= 0:
        return settings.num_workers
    if device.type == "cuda":
        return 4
    return 0


def check_shared_memory(settings: Settings, device: torch.device, channels: int) -> None:
    """Raise UserError where the processes that prepare batches have too little shared memory: two batches of each process wait there,
    and one is in use."""
    workers = worker_count(settings, device)
    if workers:
        needed = (2 * workers + 1) * batch_bytes(settings, channels)
        check_room("num_workers", workers, needed)


def batch_bytes(settings: Settings, channels: int) -> int:
    """What the images and labels of a whole batch take, all processes of the run together."""
    voxels = math.prod(settings.patch_size)
    return voxels * (4 * channels * settings.batch_size + settings.labeled_bs)


def loader(
    data: Samples, sampler: StreamSampler, settings: Settings, device: torch.device
) -> DataLoader:
    """The batches of a sampler, prepared by other processes but where they are made on the device."""
    workers = worker_count(settings, device)
    return DataLoader(
        data,
        batch_sampler=sampler,
        collate_fn=as_it_is,
        num_workers=workers,
        worker_init_fn=leave_to_main_process,
        timeout=LOADER_TIMEOUT if workers else 0,
        pin_memory=device.type == "cuda" and not on_device(settings),
    )
