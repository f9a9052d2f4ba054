"""Predicting a volume slice by slice."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dataloaders.transforms import zoom_nearest, zoom_nearest_on_device
from training.device import autocast, place
from utils.label_maps import most_probable


def class_probabilities(
    net: nn.Module, images: Tensor, mirror: bool = False, amp: torch.dtype | None = None
) -> Tensor:
    """Softmax of the network's output, (N, C, ...) to (N, K, ...) float32.

    `mirror`: its mean over all flips of the images. `amp`: the type that the network is autocast
    to; the softmax is float32.
    """
    if not mirror:
        return _softmax(net, images, amp)
    axes = range(2, images.ndim)
    mirrored: list[Tensor] = []
    for count in range(len(axes) + 1):
        for flip in combinations(axes, count):
            mirrored.append(_softmax(net, images.flip(flip), amp).flip(flip))
    return torch.stack(mirrored).mean(0)


def _softmax(net: nn.Module, images: Tensor, amp: torch.dtype | None) -> Tensor:
    return _logits(net, images, amp).float().softmax(1)


def _logits(net: nn.Module, images: Tensor, amp: torch.dtype | None) -> Tensor:
    with autocast(images.device, amp):
        return net(images)


@dataclass(frozen=True)
class SlicePredictor:
    """Predicts a volume (C, S, H, W) slice by slice, as BCP's ACDC test does.

    Each slice is zoomed (order 0) to `patch_size`, and its most probable classes are zoomed back
    (order 0). `batch` slices go through the network at a time; in eval mode the result is that of
    one at a time, to float32 rounding. `mirror` is for `slabs` only: the mean over flipped slices.
    `amp`: the type that the network is autocast to.
    """

    patch_size: tuple[int, int]
    device: torch.device
    batch: int = 16
    mirror: bool = False
    amp: torch.dtype | None = None

    def __call__(self, net: nn.Module, image: NDArray[np.float32]) -> NDArray[np.uint8]:
        """(C, S, H, W) to (S, H, W) class numbers; `net` must be in eval mode."""
        return self.classes(net, image).cpu().numpy()

    @torch.inference_mode()
    def classes(self, net: nn.Module, image: NDArray[np.float32]) -> Tensor:
        """The same on the device, without waiting for it."""
        volume = torch.as_tensor(image).to(self.device, non_blocking=True)
        slices = zoom_nearest_on_device(volume, self.patch_size).transpose(0, 1)  # (S, C, h, w)
        predicted: list[Tensor] = []
        for part in torch.split(slices, self.batch):
            logits = _logits(net, place(part, self.device, 2, self.amp), self.amp)
            predicted.append(most_probable(logits.transpose(0, 1)))
        return zoom_nearest_on_device(torch.cat(predicted), image.shape[-2:])

    @torch.inference_mode()
    def slabs(self, net: nn.Module, image: NDArray[np.float32]) -> Iterator[Tensor]:
        """(C, S, H, W) to probabilities (K, n, H, W) of n slices at a time, in their order.

        Their argmax is the prediction.
        """
        for first in range(0, image.shape[1], self.batch):
            zoomed = zoom_nearest(image[:, first : first + self.batch], self.patch_size)
            slices = torch.as_tensor(zoomed).transpose(0, 1)  # (n, C, h, w)
            placed = place(slices, self.device, 2, self.amp)
            probability = class_probabilities(net, placed, self.mirror, self.amp)
            planes = probability.transpose(0, 1).cpu().numpy()  # (K, n, h, w)
            yield torch.as_tensor(zoom_nearest(planes, image.shape[-2:]))
