"""Predicting a volume by a window that slides over it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor, nn

from evaluation.validation import class_probabilities
from training.device import place
from utils.components import Connectivity, largest_component_per_class
from utils.errors import UserError
from utils.most_probable import most_probable
from utils.progress import progress


def check_stride(stride: Sequence[int], flag: str) -> None:
    """Raise UserError unless `stride` moves a sliding window along three axes."""
    if len(stride) != 3 or min(stride) < 1:
        raise UserError(
            f"--{flag} {' '.join(map(str, stride))}: give three steps of at least 1, as in --{flag} 18 18 4"
        )


@dataclass(frozen=True)
class VolumePredictor:
    """Predicts a volume (C, X, Y, Z) as BCP's LA test does: mean of the softmax of all windows over a voxel, the most probable class,
    then, if `connectivity` is given, the largest component of each class.

    Windows lie each `stride` voxels, the last flush with the border; a scan smaller than the window is zero-padded evenly.
    `batch` windows go through the network at a time; in eval mode that gives what one at a time gives, to float32 rounding.
    `mirror`: the mean over flipped windows too.
    """

    patch_size: tuple[int, ...]
    stride: tuple[int, ...]
    device: torch.device
    connectivity: Connectivity | None = None
    batch: int = 4
    progress: bool = False
    mirror: bool = False

    def __call__(self, net: nn.Module, image: np.ndarray) -> np.ndarray:
        """(C, X, Y, Z) float32 to (X, Y, Z) uint8 class numbers; `net` must be in eval mode."""
        labels = self.classes(net, image).cpu().numpy()
        if self.connectivity is None:
            return labels
        return largest_component_per_class(labels[None], int(labels.max()) + 1, self.connectivity)[
            0
        ]

    def classes(self, net: nn.Module, image: np.ndarray) -> Tensor:
        """The same on the device, without the component filter; the device is not waited for."""
        return torch.cat([most_probable(slab) for slab in self._slabs(net, image)])

    def probability(self, net: nn.Module, image: np.ndarray) -> Tensor:
        """(C, X, Y, Z) to (K, X, Y, Z) mean probabilities on the CPU."""
        return torch.cat(list(self.slabs(net, image)), 1)

    def slabs(self, net: nn.Module, image: np.ndarray) -> Iterator[Tensor]:
        """(C, X, Y, Z) to mean probabilities (K, n, Y, Z) on the CPU, of those n planes along x that no later window touches, in order.

        So there are never more of them in memory than a window is deep, however many classes and planes there are.
        """
        return (slab.cpu() for slab in self._slabs(net, image))

    @torch.inference_mode()
    def _slabs(self, net: nn.Module, image: np.ndarray) -> Iterator[Tensor]:
        """`slabs` on the device, where volume and sums stay."""
        spare = [
            max(patch - side, 0)
            for patch, side in zip(self.patch_size, image.shape[1:], strict=True)
        ]
        if any(spare):
            image = np.pad(image, [(0, 0), *((n // 2, n - n // 2) for n in spare)])
        # without what was padded; where x was, all its planes are in one slab
        inside = [
            slice(n // 2, side - (n - n // 2) if n else None)
            for n, side in zip(spare, image.shape[1:], strict=True)
        ]
        starts = [
            window_starts(*axis)
            for axis in zip(image.shape[1:], self.patch_size, self.stride, strict=True)
        ]
        counts = [
            covering(*axis) for axis in zip(starts, self.patch_size, image.shape[1:], strict=True)
        ]
        plane_counts = (counts[1][:, None] * counts[2]).to(self.device)
        corners = list(product(*starts))
        volume = torch.from_numpy(image).to(self.device, non_blocking=True)
        # of the probabilities of all windows so far, of the planes from `first` on
        sums: Tensor | None = None
        first = 0
        with progress(
            total=len(corners),
            desc="windows",
            unit="window",
            leave=False,
            delay=1.0,
            disable=not self.progress,
        ) as bar:
            for begin in range(0, len(corners), self.batch):
                some = corners[begin : begin + self.batch]
                windows = torch.stack([volume[self._window(corner)] for corner in some])
                found = class_probabilities(net, place(windows, self.device, 3), self.mirror)
                bar.update(len(some))
                for (x, *rest), probability in zip(some, found, strict=True):
                    if sums is None:
                        sums = _zeros_like(probability, (self.patch_size[0], *image.shape[2:]))
                    if ready := x - first:
                        yield self._mean(sums[:, :ready], counts[0][first:x], plane_counts, inside)
                        sums[:, :-ready] = sums[:, ready:].clone()
                        sums[:, -ready:] = 0
                        first = x
                    sums[self._window((0, *rest))] += probability
            if sums is not None:
                yield self._mean(sums, counts[0][first:], plane_counts, inside)

    def _window(self, corner: Sequence[int]) -> tuple[slice, ...]:
        return slice(None), *(
            slice(start, start + side) for start, side in zip(corner, self.patch_size, strict=True)
        )

    @staticmethod
    def _mean(sums: Tensor, along: Tensor, plane_counts: Tensor, inside: Sequence[slice]) -> Tensor:
        """Sums (K, n, Y, Z) over the number of windows."""
        mean = sums / (along.to(sums.device)[:, None, None] * plane_counts)
        return mean[:, inside[0], inside[1], inside[2]]


def _zeros_like(probability: Tensor, shape: Sequence[int]) -> Tensor:
    """Zeros (K, *shape) whose axes lie in memory as those of `probability` do: two tensors that differ there are added four times as
    slowly."""
    if probability.stride(0) == 1:
        return probability.new_zeros(*shape, len(probability)).movedim(-1, 0)
    return probability.new_zeros(len(probability), *shape)


def window_starts(side: int, patch: int, step: int) -> list[int]:
    """Where windows begin along an axis: each `step` voxels (at most a window's side), the last flush with the border."""
    step = min(step, patch)
    return [
        min(number * step, side - patch) for number in range(max(-(-(side - patch) // step), 0) + 1)
    ]


def covering(starts: Sequence[int], patch: int, side: int) -> Tensor:
    """How many windows lie over each voxel of an axis."""
    counts = torch.zeros(side)
    for start in starts:
        counts[start : start + patch] += 1
    return counts
