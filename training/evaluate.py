"""Predicting volumes and scoring them, for validation and for the test scripts."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from torch import Tensor, nn

from training.device import place
from utils.case import Case
from utils.phase import Validation
from utils.scores import ClassScore, score_case
from utils.zoom import zoom_nearest

Predict = Callable[[nn.Module, np.ndarray], np.ndarray]


def class_probabilities(net: nn.Module, images: Tensor, mirror: bool = False) -> Tensor:
    """Softmax of the network's answer, (N, C, ...) to (N, K, ...); with `mirror` its mean over all flips of the images."""
    if not mirror:
        return net(images).float().softmax(1)
    axes = range(2, images.ndim)
    flips = [flip for count in range(len(axes) + 1) for flip in combinations(axes, count)]
    return torch.stack([net(images.flip(flip)).float().softmax(1).flip(flip) for flip in flips]).mean(0)


@dataclass(frozen=True)
class SlicePredictor:
    """Predicts a volume (C, S, H, W) slice by slice, as BCP's ACDC test does: zoom (order 0) to `patch_size`, argmax, zoom back (order 0).

    Slices go through the network `batch` at a time; in eval mode that gives what one at a time gives, to float32 rounding.
    `mirror` is for `slabs` alone: the mean over flipped slices.
    """

    patch_size: tuple[int, int]
    device: torch.device
    batch: int = 16
    mirror: bool = False

    @torch.inference_mode()
    def __call__(self, net: nn.Module, image: np.ndarray) -> np.ndarray:
        """(C, S, H, W) float32 to (S, H, W) uint8 class numbers; `net` must be in eval mode."""
        slices = torch.from_numpy(zoom_nearest(image, self.patch_size)).transpose(0, 1)  # (S, C, h, w)
        parts = [net(place(part, self.device, 2)).argmax(1).to(torch.uint8).cpu() for part in slices.split(self.batch)]
        return zoom_nearest(torch.cat(parts).numpy(), image.shape[-2:])

    @torch.inference_mode()
    def slabs(self, net: nn.Module, image: np.ndarray) -> Iterator[Tensor]:
        """(C, S, H, W) float32 to probabilities (K, n, H, W) of some slices at a time, in their order; their argmax is the prediction."""
        for first in range(0, image.shape[1], self.batch):
            slices = torch.from_numpy(zoom_nearest(image[:, first : first + self.batch], self.patch_size)).transpose(0, 1)  # (n, C, h, w)
            probability = class_probabilities(net, place(slices, self.device, 2), self.mirror).transpose(0, 1).cpu()
            yield torch.from_numpy(zoom_nearest(probability.numpy(), image.shape[-2:]))


def predictions(net: nn.Module, cases: Sequence[Case], predict: Predict) -> Iterator[tuple[Case, np.ndarray]]:
    """Each case with its prediction, the network in eval mode."""
    net.eval()
    for case in cases:
        yield case, predict(net, case.image)


def validate(
    net: nn.Module, stopped: Callable[[], bool], cases: Sequence[Case], predict: Predict, class_names: Sequence[str]
) -> Validation | None:
    """Mean Dice over cases, then over foreground classes, an empty prediction scored 0; None if `stopped` says so meanwhile."""
    scores: list[ClassScore] = []
    for case, prediction in predictions(net, cases, predict):
        if stopped():
            return None
        scores += score_case(case, prediction, class_names, with_mm=False)
    scalars = {}
    for name in class_names[1:]:
        mine = [score for score in scores if score.class_name == name]
        name = name.replace(" ", "_")
        scalars[f"dice_{name}"] = float(np.mean([score.published.dice for score in mine]))
        for figure, unit in (("jaccard", ""), ("hd95", "_voxel"), ("asd", "_voxel")):
            scalars[f"{figure}{unit}_{name}"] = float(np.mean([getattr(score.honest, figure) for score in mine]))
    score = float(np.mean([value for key, value in scalars.items() if key.startswith("dice_")]))
    return Validation(score, {"dice": score, **scalars})
