"""Predicting a volume by a window that slides over it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from training.device import place
from utils.components import largest_component_per_class
from utils.errors import UserError
from utils.progress import progress


def window_count(shape: Sequence[int], patch_size: Sequence[int], stride: Sequence[int]) -> int:
    """How many windows cover a volume of `shape`: one each `stride` voxels, the last flush with the border."""
    axes = zip(shape, patch_size, stride, strict=True)
    return math.prod(max(-(-(side - patch) // step), 0) + 1 for side, patch, step in axes)


def check_stride(stride: Sequence[int], flag: str) -> None:
    """Raise UserError unless `stride` moves a sliding window along three axes."""
    if len(stride) != 3 or min(stride) < 1:
        raise UserError(f"--{flag} {' '.join(map(str, stride))}: give three steps of at least 1, as in --{flag} 18 18 4")


@dataclass(frozen=True)
class VolumePredictor:
    """Predicts a volume (C, X, Y, Z) as BCP's LA test does: mean of the softmax of all windows over a voxel, the most probable class,
    then, if `connectivity` is given, the largest component of each class.

    Windows lie each `stride` voxels, the last flush with the border; a scan smaller than the window is zero-padded evenly.
    `batch` windows go through the network at a time; in eval mode that gives what one at a time gives, to float32 rounding.
    """

    patch_size: tuple[int, ...]
    stride: tuple[int, ...]
    device: torch.device
    connectivity: int | None = None
    batch: int = 4
    progress: bool = False

    def __call__(self, net: nn.Module, image: np.ndarray) -> np.ndarray:
        """(C, X, Y, Z) float32 to (X, Y, Z) uint8 class numbers; `net` must be in eval mode."""
        probability = self.probability(net, image)
        labels = probability.argmax(0).to(torch.uint8).numpy()
        if self.connectivity is None:
            return labels
        return largest_component_per_class(labels[None], len(probability), self.connectivity)[0]

    @torch.inference_mode()
    def probability(self, net: nn.Module, image: np.ndarray) -> Tensor:
        """(C, X, Y, Z) to (K, X, Y, Z) mean probabilities on the CPU."""
        from monai.inferers import sliding_window_inference  # takes seconds to import, and only volumes need it

        # monai turns an overlap back into a stride by cutting off, which 1 - stride / side can miss by one; half a voxel more cannot.
        overlap = [max(1 - (step + 0.5) / side, 0.0) for step, side in zip(self.stride, self.patch_size, strict=True)]
        total = window_count(image.shape[1:], self.patch_size, self.stride)
        with progress(total=total, desc="windows", unit="window", leave=False, delay=1.0, disable=not self.progress) as bar:

            def predict(windows: Tensor) -> Tensor:
                bar.update(len(windows))
                return net(place(windows, self.device, 3)).float().softmax(1).cpu()

            volume = torch.from_numpy(image)[None]  # (1, C, X, Y, Z)
            return sliding_window_inference(volume, self.patch_size, self.batch, predict, overlap=overlap)[0]
