"""Predicting a volume slice by slice."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from dataloaders.transforms import zoom_nearest, zoom_nearest_on_device
from evaluation.passes import NO_MAPS, ExtraMaps, batch_maps, logits
from training.device import place
from utils.label_maps import most_probable

Interpolation = Literal["nearest", "linear"]


@dataclass(frozen=True)
class SlicePredictor:
    """Predicts a volume (C, S, H, W) slice by slice, as BCP's ACDC test does.

    Each slice is zoomed (order 0) to `patch_size`. `interpolation`: how predictions are zoomed
    back: nearest takes the most probable classes (order 0), linear the probabilities (order 1).
    `batch` slices go through the network at a time; in eval mode the result is that of one at a
    time, to float32 rounding. `mirror` is for `slabs` only: the mean over flipped slices. `amp`:
    the type that the network is autocast to. `extra`: maps that `slabs` returns behind the
    probabilities.
    """

    patch_size: tuple[int, int]
    device: torch.device
    batch: int = 16
    mirror: bool = False
    amp: torch.dtype | None = None
    extra: ExtraMaps = NO_MAPS
    interpolation: Interpolation = "nearest"

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
            predicted.append(self._zoomed_classes(output, image.shape[-2:]))
        return torch.cat(predicted)

    def _zoomed_classes(self, output: Tensor, size: tuple[int, ...]) -> Tensor:
        """Most probable classes (n, H, W) of logits (n, K, h, w)."""
        height, width = size
        if self.interpolation == "linear":
            probabilities = zoom_linear(output.float().softmax(1), (height, width))
            return most_probable(probabilities.transpose(0, 1))
        return zoom_nearest_on_device(most_probable(output.transpose(0, 1)), (height, width))

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
            if self.interpolation == "linear":
                maps = zoom_linear(maps.cpu(), image.shape[-2:])
            else:
                size = image.shape[-2:]
                maps = torch.as_tensor(zoom_nearest(maps.cpu().numpy(), size))
                has_source = zoom_nearest(np.ones(self.patch_size, dtype=bool), size)
                maps[:, 0, torch.as_tensor(~has_source)] = 1  # the others are background
            yield maps.transpose(0, 1)  # (K + M, n, H, W)


def zoom_linear(tensor: Tensor, size: tuple[int, ...]) -> Tensor:
    """Resize (N, C, H, W) to `size` linearly, as scipy.ndimage.zoom(order=1) does."""
    return F.interpolate(tensor, size, mode="bilinear", align_corners=True)
