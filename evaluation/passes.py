"""Passes of a batch through a network: one, over mirrored images, and with dropout (MC dropout)."""

from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from training.device import autocast

DropoutLayer = nn.Dropout | nn.Dropout1d | nn.Dropout2d | nn.Dropout3d
SEED = 1337
"""Seed of Monte Carlo dropout, so that a second prediction has the same bits."""


def class_probabilities(
    net: nn.Module, images: Tensor, mirror: bool = False, amp: torch.dtype | None = None
) -> Tensor:
    """Softmax of the network's output, (N, C, ...) to (N, K, ...) float32.

    `mirror`: its mean over all flips of the images. `amp`: the type that the network is autocast
    to; the softmax is float32.
    """
    if not mirror:
        return _softmax(net, images, amp)
    return _mirrored(net, images, amp).mean(0)


@dataclass(frozen=True)
class ExtraMaps:
    """The maps that a pass of a batch returns behind the class probabilities, in this order.

    `mirror`: the variance over all flips of the images. `dropout_passes`: the variance over that
    many passes with dropout, none if 0. `mean`: the mean probabilities (K maps) of all of these
    passes; without `mirror`, and unless the probabilities are the mean over flips, the plain pass
    counts instead of the flips.
    """

    mirror: bool = False
    dropout_passes: int = 0
    mean: bool = False

    def channels(self, classes: int) -> int:
        """The number of maps behind those of the classes."""
        count = int(self.mirror) + int(self.dropout_passes > 0)
        if self.mean:
            count += classes
        return count

    def stacked_passes(self, mirror: bool, dims: int) -> int:
        """The number of passes whose probabilities are in memory at the same time.

        `mirror`: whether the probabilities are the mean over flips. `dims`: axes of an image.
        """
        flips = 1
        if mirror or self.mirror:
            flips = 2**dims
        return flips + self.dropout_passes


NO_MAPS = ExtraMaps()


def batch_maps(
    net: nn.Module,
    images: Tensor,
    mirror: bool,
    amp: torch.dtype | None,
    extra: ExtraMaps,
    number: int,
) -> Tensor:
    """Class probabilities and the `extra` maps of a batch, (N, C, ...) to (N, K + M, ...) float32.

    The probabilities are those of `class_probabilities`. `number`: of the batch in its scan; the
    draws of dropout follow from it.
    """
    if mirror or extra.mirror:
        views = _mirrored(net, images, amp)
    else:
        views = _softmax(net, images, amp)[None]
    probabilities = views[0]
    if mirror:
        probabilities = views.mean(0)
    if extra == NO_MAPS:
        return probabilities
    maps = [probabilities]
    if extra.mirror:
        maps.append(class_variance(views)[:, None])
    passes = [views]
    if extra.dropout_passes:
        dropped = _with_dropout(net, images, amp, count=extra.dropout_passes, batch=number)
        maps.append(class_variance(dropped)[:, None])
        passes.append(dropped)
    if extra.mean:
        maps.append(torch.cat(passes).mean(0))
    return torch.cat(maps, 1)


def class_variance(passes: Tensor) -> Tensor:
    """The variance over passes, averaged over the classes: (passes, N, K, ...) to (N, ...).

    It is that of a population: the mean squared distance from the mean of the passes.
    """
    return passes.var(0, correction=0).mean(1)


def has_dropout(net: nn.Module) -> bool:
    """Whether a network has a layer that can drop something."""
    return any(layer.p > 0 for layer in _dropout_layers(net))


def logits(net: nn.Module, images: Tensor, amp: torch.dtype | None) -> Tensor:
    """The network's output for images (N, C, ...), computed in the type `amp`."""
    with autocast(images.device, amp):
        return net(images)


def _softmax(net: nn.Module, images: Tensor, amp: torch.dtype | None) -> Tensor:
    return logits(net, images, amp).float().softmax(1)


def _mirrored(net: nn.Module, images: Tensor, amp: torch.dtype | None) -> Tensor:
    """Probabilities (flips, N, K, ...), each turned back; the first is of the images themselves."""
    axes = range(2, images.ndim)
    mirrored: list[Tensor] = []
    for count in range(len(axes) + 1):
        for flip in combinations(axes, count):
            mirrored.append(_softmax(net, images.flip(flip), amp).flip(flip))
    return torch.stack(mirrored)


def _with_dropout(
    net: nn.Module, images: Tensor, amp: torch.dtype | None, count: int, batch: int
) -> Tensor:
    """Probabilities (count, N, K, ...) with dropout; everything else is as in eval mode."""
    devices: list[torch.device] = []
    if images.device.type == "cuda":
        devices.append(images.device)
    passes: list[Tensor] = []
    with _kept_generators(devices), _active_dropout(net):
        for number in range(count):
            sequence = np.random.SeedSequence((SEED, batch, number))
            seed = int(sequence.generate_state(1, np.uint64)[0])
            torch.manual_seed(seed)  # pyright: ignore[reportUnknownMemberType]
            passes.append(_softmax(net, images, amp))
    return torch.stack(passes)


def _kept_generators(devices: list[torch.device]) -> AbstractContextManager[Any]:
    """A context after which torch's generators of the CPU and of `devices` are as before."""
    return torch.random.fork_rng(devices=devices)  # pyright: ignore


@contextmanager
def _active_dropout(net: nn.Module) -> Generator[None, None, None]:
    """Within the context, dropout layers drop as in training."""
    layers = _dropout_layers(net)
    for layer in layers:
        layer.train()
    try:
        yield
    finally:
        for layer in layers:
            layer.eval()


def _dropout_layers(net: nn.Module) -> list[DropoutLayer]:
    return [module for module in net.modules() if isinstance(module, DropoutLayer)]
