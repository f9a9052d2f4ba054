"""Predicting a volume by a window that slides over it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from evaluation.passes import NO_MAPS, ExtraMaps, batch_maps
from evaluation.windows import Blend, Corner, Windows
from training.device import place
from utils.errors import UserError
from utils.label_maps import Connectivity, largest_component_per_class, most_probable
from utils.progress import progress


def check_stride(stride: Sequence[int], flag: str) -> None:
    """Raise UserError unless `stride` moves a sliding window along three axes."""
    if len(stride) != 3 or min(stride) < 1:
        steps = " ".join(str(step) for step in stride)
        raise UserError(f"--{flag} {steps}: give three steps of at least 1, as in --{flag} 18 18 4")


@dataclass(frozen=True)
class VolumePredictor:
    """Predicts a volume (C, X, Y, Z) as BCP's LA test does.

    The mean of the softmax of all windows over a voxel decides on its class. Then, if
    `connectivity` is given, only the largest component of each class is kept. Windows lie each
    `stride` voxels, the last flush with the border; a scan smaller than the window is zero-padded
    evenly. `batch` windows go through the network at a time; in eval mode the result is that of one
    at a time, to float32 rounding. `mirror`: the mean over flipped windows too.

    `amp`: the type that the network is autocast to. `blend`: the weights of a window's voxels in
    that mean. `skip_background`: of the windows that hold nothing but background, one value per
    channel, only the first goes through the network, and its output is that of all of them. A
    network in eval mode computes each window by itself (batch norm with stored statistics, instance
    norm with those of the window), so this is exact, to float32 rounding. `extra`: maps that
    `slabs` returns behind the probabilities: (K + M, n, Y, Z); windows are averaged in them too.
    """

    patch_size: tuple[int, ...]
    stride: tuple[int, ...]
    device: torch.device
    connectivity: Connectivity | None = None
    batch: int = 4
    progress: bool = False
    mirror: bool = False
    amp: torch.dtype | None = None
    blend: Blend = "uniform"
    skip_background: bool = False
    extra: ExtraMaps = NO_MAPS

    def __call__(self, net: nn.Module, image: NDArray[np.float32]) -> NDArray[np.uint8]:
        """(C, X, Y, Z) to (X, Y, Z) class numbers; `net` must be in eval mode."""
        labels = self.classes(net, image).cpu().numpy()
        if self.connectivity is None:
            return labels
        classes = int(labels.max()) + 1
        return largest_component_per_class(labels[None], classes, self.connectivity)[0]

    def classes(self, net: nn.Module, image: NDArray[np.float32]) -> Tensor:
        """The same on the device, without the component filter and without waiting."""
        return torch.cat([most_probable(slab) for slab in self._slabs(net, image)])

    def probability(self, net: nn.Module, image: NDArray[np.float32]) -> Tensor:
        """(C, X, Y, Z) to (K, X, Y, Z) mean probabilities on the CPU."""
        return torch.cat(list(self.slabs(net, image)), 1)

    def slabs(self, net: nn.Module, image: NDArray[np.float32]) -> Iterator[Tensor]:
        """(C, X, Y, Z) to mean probabilities (K, n, Y, Z) on the CPU, in the order of x.

        The n planes of a slab are those that no later window touches. So there are never more of
        them in memory than a window is deep, however many classes and planes there are.
        """
        for slab in self._slabs(net, image):
            yield slab.cpu()

    @torch.inference_mode()
    def _slabs(self, net: nn.Module, image: NDArray[np.float32]) -> Iterator[Tensor]:
        """`slabs` on the device, where volume and sums stay."""
        padded, inside = _padded(image, self.patch_size)
        windows = Windows(padded.shape[1:], self.patch_size, self.stride, self.blend)
        sums = _WindowSums(windows, self.device)
        for corner, probability in self._outputs(net, padded, windows):
            if corner[0] > sums.first:
                yield sums.take_mean(corner[0])[inside]
            sums.add(corner, probability)
        yield sums.take_mean(padded.shape[1])[inside]

    def _outputs(
        self, net: nn.Module, image: NDArray[np.float32], windows: Windows
    ) -> Iterator[tuple[Corner, Tensor]]:
        """The probabilities (K, x, y, z) of each window, in the order of x."""
        corners = windows.corners()
        background: set[Corner] = set()
        if self.skip_background:
            background = windows.background(image)
        known: Tensor | None = None  # of the windows that hold only background
        skipped = set(sorted(background)[1:])
        computed = [corner for corner in corners if corner not in skipped]
        volume = torch.as_tensor(image).to(self.device, non_blocking=True)
        probabilities = self._computed(net, volume, windows, computed)
        with progress(
            corners,
            desc="windows",
            unit="window",
            leave=False,
            delay=1.0,
            disable=not self.progress,
        ) as bar:
            for corner in bar:
                if corner in skipped and known is not None:
                    yield corner, known
                    continue
                probability = next(probabilities)
                if corner in background:
                    known = probability.clone()  # the rest of its batch is not kept
                yield corner, probability

    def _computed(
        self, net: nn.Module, volume: Tensor, windows: Windows, corners: Sequence[Corner]
    ) -> Iterator[Tensor]:
        """The probabilities (K, x, y, z) of windows, computed `batch` at a time."""
        for number, first in enumerate(range(0, len(corners), self.batch)):
            batch = corners[first : first + self.batch]
            images = torch.stack([volume[windows.at(corner)] for corner in batch])
            images = place(images, self.device, 3, self.amp)
            yield from batch_maps(
                net, images, self.mirror, amp=self.amp, extra=self.extra, number=number
            )


class _WindowSums:
    """Weighted sums of the windows' probabilities, for the planes that later windows may touch.

    `first`: the first of these planes.
    """

    def __init__(self, windows: Windows, device: torch.device) -> None:
        self.first = 0
        self._windows = windows
        self._plane_sums = windows.plane_sums.to(device)
        self._weights: Tensor | None = None
        if windows.weights is not None:
            self._weights = windows.weights.to(device)
        self._sums: Tensor | None = None

    def add(self, corner: Corner, probability: Tensor) -> None:
        """Add the probabilities (K, x, y, z) of a window that begins at plane `first`."""
        if self._sums is None:
            shape = (self._windows.patch_size[0], *self._windows.plane_shape)
            self._sums = _zeros_like(probability, shape)
        part = self._sums[self._windows.at((0, *corner[1:]))]
        if self._weights is None:
            part += probability
        else:
            part.addcmul_(probability, self._weights)

    def take_mean(self, stop: int) -> Tensor:
        """Return the weighted mean (K, n, Y, Z) of the planes before `stop`, and begin with plane
        `stop`.
        """
        assert self._sums is not None
        finished = stop - self.first
        x_sums = self._windows.x_sums[self.first : stop].to(self._sums.device)
        mean = self._sums[:, :finished] / (x_sums[:, None, None] * self._plane_sums)
        self._sums[:, :-finished] = self._sums[:, finished:].clone()
        self._sums[:, -finished:] = 0
        self.first = stop
        return mean


def _padded(
    image: NDArray[np.float32], patch_size: Sequence[int]
) -> tuple[NDArray[np.float32], tuple[slice, ...]]:
    """Zero-pad a scan (C, X, Y, Z) evenly to at least the window.

    Also returns the index that removes the padding from probabilities (K, n, Y, Z). If x was
    padded, n is all of x.
    """
    widths = [(0, 0)]
    inside = [slice(None)]
    for side, patch in zip(image.shape[1:], patch_size, strict=True):
        missing = max(patch - side, 0)
        before = missing // 2
        widths.append((before, missing - before))
        if missing:
            inside.append(slice(before, before + side))
        else:
            inside.append(slice(None))
    if any(after > 0 for _, after in widths):
        image = np.pad(image, widths)
    return image, tuple(inside)


def _zeros_like(probability: Tensor, shape: Sequence[int]) -> Tensor:
    """Zeros (K, *shape) whose axes lie in memory as those of `probability` do.

    Two tensors that differ there are added four times as slowly.
    """
    if probability.stride(0) == 1:
        return probability.new_zeros(*shape, len(probability)).movedim(-1, 0)
    return probability.new_zeros(len(probability), *shape)
