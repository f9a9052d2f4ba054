"""Predicting cases and scoring them, for validation and for the test scripts."""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from evaluation.masks import Counts, image_diagonal
from evaluation.metrics import OVERLAP_METRICS, class_overlaps, metrics_in, overlap_metrics
from evaluation.scores import ClassScore, score_case
from methods.base import Validation, class_scalar
from training.distributed import all_parts, rank, world
from utils.case import Case

Classes = Callable[[nn.Module, np.ndarray], Tensor]


class Predictor(Protocol):
    """Predicts the class numbers of an image (C, ...) with a network in eval mode."""

    def __call__(self, net: nn.Module, image: NDArray[np.float32]) -> NDArray[np.uint8]:
        """The class numbers, filtered as the test of the data set filters them."""
        ...

    def classes(self, net: nn.Module, image: NDArray[np.float32]) -> Tensor:
        """The class numbers on the network's device, not filtered, without waiting for them."""
        ...


def predictions(
    net: nn.Module, cases: Sequence[Case], predict: Predictor
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
    """Mean Dice over cases, then over foreground classes, an empty prediction scored 0.

    `classes`: a predictor's class numbers on its device. Only voxel counts are read from there.
    With `distances` the predictions are read and compared on the host, which takes longer than all
    else. With several processes each takes its share of the cases, and all get the result. Returns
    None if `stopped` returns True meanwhile.
    """
    share = cases[rank() :: world()]
    parts = all_parts(
        _scores(net, stopped, share, classes, class_names=class_names, distances=distances)
    )
    finished = [part for part in parts if part is not None]
    if len(finished) < len(parts):
        return None
    scores: list[ClassScore] = []
    for number in range(len(cases)):
        scores += finished[number % world()][number // world()]
    metrics = [
        metric for metric in metrics_in("voxel") if distances or metric.name in OVERLAP_METRICS
    ]
    scalars: dict[str, float] = {}
    class_dice: dict[str, float] = {}
    for name in class_names[1:]:
        of_class = [score for score in scores if score.class_name == name]
        for metric in metrics:
            values = [score.penalised.values[metric.name] for score in of_class]
            if metric.name == "dice":
                values = [score.published.dice for score in of_class]
                class_dice[name] = float(np.mean(values))
            scalars[class_scalar(metric.key("voxel"), name)] = float(np.mean(values))
    score = float(np.mean(list(class_dice.values())))
    return Validation(score, {"dice": score, **scalars}, class_dice)


def _scores(
    net: nn.Module,
    stopped: Callable[[], bool],
    cases: Sequence[Case],
    classes: Classes,
    class_names: Sequence[str],
    distances: bool,
) -> list[list[ClassScore]] | None:
    """The scores of each case, None if `stopped` returns True meanwhile."""
    net.eval()
    counts: list[Tensor] = []
    scores: list[list[ClassScore]] = []
    for case in cases:
        prediction = classes(net, case.image)
        if distances:
            scores.append(score_case(case, prediction.cpu().numpy(), class_names, with_mm=False))
        else:
            truth = torch.as_tensor(case.label).to(prediction.device, non_blocking=True)
            counts.append(class_overlaps(prediction, truth, len(class_names)))
        if stopped():
            return None
    if not counts:
        return scores
    # read once for all cases: on a GPU each reading would wait for everything before it
    counts_on_host = torch.stack(counts).cpu().numpy()
    for case, overlaps in zip(cases, counts_on_host, strict=True):
        worst = image_diagonal(case.label.shape)
        case_scores: list[ClassScore] = []
        for name, (predicted, true, common) in zip(class_names[1:], overlaps, strict=True):
            metrics = overlap_metrics(Counts(int(predicted), int(true), int(common)))
            case_scores.append(ClassScore(case.name, name, metrics, None, worst, None))
        scores.append(case_scores)
    return scores
