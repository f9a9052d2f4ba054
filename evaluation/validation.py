"""Predicting volumes and scoring them, for validation and for the test scripts."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from torch import Tensor, nn

from evaluation.metrics import class_overlaps, image_diagonal, overlap_metrics
from evaluation.scores import ClassScore, score_case
from methods.base import Validation
from training.device import place
from training.distributed import all_parts, rank, world
from utils.case import Case
from utils.most_probable import most_probable
from utils.zoom import zoom_nearest, zoom_nearest_on_device

Predict = Callable[[nn.Module, np.ndarray], np.ndarray]
Classes = Callable[[nn.Module, np.ndarray], Tensor]


def class_probabilities(net: nn.Module, images: Tensor, mirror: bool = False) -> Tensor:
    """Softmax of the network's answer, (N, C, ...) to (N, K, ...); with `mirror` its mean over all flips of the images."""
    if not mirror:
        return net(images).float().softmax(1)
    axes = range(2, images.ndim)
    flips = [flip for count in range(len(axes) + 1) for flip in combinations(axes, count)]
    return torch.stack(
        [net(images.flip(flip)).float().softmax(1).flip(flip) for flip in flips]
    ).mean(0)


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

    def __call__(self, net: nn.Module, image: np.ndarray) -> np.ndarray:
        """(C, S, H, W) float32 to (S, H, W) uint8 class numbers; `net` must be in eval mode."""
        return self.classes(net, image).cpu().numpy()

    @torch.inference_mode()
    def classes(self, net: nn.Module, image: np.ndarray) -> Tensor:
        """The same on the device, which is not waited for."""
        volume = torch.from_numpy(image).to(self.device, non_blocking=True)
        slices = zoom_nearest_on_device(volume, self.patch_size).transpose(0, 1)  # (S, C, h, w)
        parts = [
            most_probable(net(place(part, self.device, 2)).transpose(0, 1))
            for part in slices.split(self.batch)
        ]
        return zoom_nearest_on_device(torch.cat(parts), image.shape[-2:])

    @torch.inference_mode()
    def slabs(self, net: nn.Module, image: np.ndarray) -> Iterator[Tensor]:
        """(C, S, H, W) float32 to probabilities (K, n, H, W) of some slices at a time, in their order; their argmax is the prediction."""
        for first in range(0, image.shape[1], self.batch):
            slices = torch.from_numpy(
                zoom_nearest(image[:, first : first + self.batch], self.patch_size)
            ).transpose(0, 1)  # (n, C, h, w)
            probability = (
                class_probabilities(net, place(slices, self.device, 2), self.mirror)
                .transpose(0, 1)
                .cpu()
            )
            yield torch.from_numpy(zoom_nearest(probability.numpy(), image.shape[-2:]))


def predictions(
    net: nn.Module, cases: Sequence[Case], predict: Predict
) -> Iterator[tuple[Case, np.ndarray]]:
    """Each case with its prediction, the network in eval mode."""
    net.eval()
    for case in cases:
        yield case, predict(net, case.image)


def validate(
    net: nn.Module,
    stopped: Callable[[], bool],
    cases: Sequence[Case],
    classes: Classes,
    class_names: Sequence[str],
    distances: bool = True,
) -> Validation | None:
    """Mean Dice over cases, then over foreground classes, an empty prediction scored 0; None if `stopped` says so meanwhile.

    `classes`: a predictor's class numbers on its device. Only counts of voxels leave it, but with `distances`, which are computed on the
    host and cost more than all else. With several processes each takes its share of the cases, and all get the result.
    """
    parts = all_parts(
        _scores(net, stopped, cases[rank() :: world()], classes, class_names, distances)
    )
    if any(part is None for part in parts):
        return None
    scores = [
        score
        for number in range(len(cases))
        for score in parts[number % world()][number // world()]
    ]
    figures = (
        (("jaccard", ""), ("hd95", "_voxel"), ("asd", "_voxel"))
        if distances
        else (("jaccard", ""),)
    )
    scalars = {}
    for name in class_names[1:]:
        mine = [score for score in scores if score.class_name == name]
        name = name.replace(" ", "_")
        scalars[f"dice_{name}"] = float(np.mean([score.published.dice for score in mine]))
        for figure, unit in figures:
            scalars[f"{figure}{unit}_{name}"] = float(
                np.mean([getattr(score.penalised, figure) for score in mine])
            )
    score = float(np.mean([value for key, value in scalars.items() if key.startswith("dice_")]))
    return Validation(score, {"dice": score, **scalars})


def _scores(
    net: nn.Module,
    stopped: Callable[[], bool],
    cases: Sequence[Case],
    classes: Classes,
    class_names: Sequence[str],
    distances: bool,
) -> list[list[ClassScore]] | None:
    """The scores of each case, None if `stopped` says so meanwhile."""
    net.eval()
    counts: list[Tensor] = []
    scores: list[list[ClassScore]] = []
    for case in cases:
        prediction = classes(net, case.image)
        if distances:
            scores.append(score_case(case, prediction.cpu().numpy(), class_names, with_mm=False))
        else:
            truth = torch.from_numpy(case.label).to(prediction.device, non_blocking=True)
            counts.append(class_overlaps(prediction, truth, len(class_names)))
        if stopped():
            return None
    if not counts:
        return scores
    # read once for all cases: on a GPU each reading would wait for everything before it
    counts_on_host: list[list[list[int]]] = torch.stack(counts).tolist()
    for case, overlaps in zip(cases, counts_on_host, strict=True):
        worst = image_diagonal(case.label.shape)
        case_scores: list[ClassScore] = []
        for name, (predicted, true, common) in zip(class_names[1:], overlaps, strict=True):
            metrics = overlap_metrics(predicted, true, common)
            case_scores.append(ClassScore(case.name, name, metrics, None, worst, None))
        scores.append(case_scores)
    return scores
