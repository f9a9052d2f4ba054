"""How a run's training data reach the network: loaders, processes that prepare batches, images kept on the device."""

import torch
from torch.utils.data import DataLoader

from dataloaders.samples import Samples, as_it_is
from dataloaders.two_stream import StreamSampler
from training.faults import LOADER_TIMEOUT
from training.settings import Settings
from training.signals import leave_to_main_process
from utils.errors import UserError


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


def loader(
    data: Samples, sampler: StreamSampler, settings: Settings, device: torch.device
) -> DataLoader:
    """The batches of a sampler, prepared by other processes but where they are made on the device."""
    cuda, workers = device.type == "cuda" and not on_device(settings), settings.num_workers
    if workers < 0 or on_device(settings):
        workers = 4 if cuda else 0
    return DataLoader(
        data,
        batch_sampler=sampler,
        collate_fn=as_it_is,
        num_workers=workers,
        worker_init_fn=leave_to_main_process,
        timeout=LOADER_TIMEOUT if workers else 0,
        pin_memory=cuda,
    )
