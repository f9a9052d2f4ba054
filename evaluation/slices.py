"""Predicting a volume slice by slice."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dataloaders.transforms import zoom_nearest, zoom_nearest_on_device
from evaluation.passes import NO_MAPS, ExtraMaps, batch_maps, logits
from training.device import place
from utils.label_maps import most_probable


@dataclass(frozen=True)
class SlicePredictor:
    """Predicts a volume (C, S, H, W) slice by slice, as BCP's ACDC test does.

    Each slice is zoomed (order 0) to `patch_size`, and its most probable classes are zoomed back
    (order 0). `batch` slices go through the network at a time; in eval mode the result is that of
    one at a time, to float32 rounding. `mirror` is for `slabs` only: the mean over flipped slices.
    `amp`: the type that the network is autocast to. `extra`: maps that `slabs` returns behind the
    probabilities.
    """

    patch_size: tuple[int, int]
    device: torch.device
    batch: int = 16
    mirror: bool = False
    amp: torch.dtype | None = None
    extra: ExtraMaps = NO_MAPS

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
            output = logits(net, place(part, self.device, 2, self.amp), self.amp)
            predicted.append(most_probable(output.transpose(0, 1)))
        return zoom_nearest_on_device(torch.cat(predicted), image.shape[-2:])

    @torch.inference_mode()
    def slabs(self, net: nn.Module, image: NDArray[np.float32]) -> Iterator[Tensor]:
        """(C, S, H, W) to probabilities (K, n, H, W) of n slices at a time, in their order.

        Their argmax is the prediction. The `extra` maps follow: (K + M, n, H, W).
        """
        for number, first in enumerate(range(0, image.shape[1], self.batch)):
            zoomed = zoom_nearest(image[:, first : first + self.batch], self.patch_size)
            slices = torch.as_tensor(zoomed).transpose(0, 1)  # (n, C, h, w)
            placed = place(slices, self.device, 2, self.amp)
            maps = batch_maps(
                net, placed, self.mirror, amp=self.amp, extra=self.extra, number=number
            )
            planes = maps.transpose(0, 1).cpu().numpy()  # (K + M, n, h, w)
            yield torch.as_tensor(zoom_nearest(planes, image.shape[-2:]))
