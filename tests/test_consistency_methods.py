"""The published protocols of mean teacher, UA-MT, CPS, URPC and UniMatch, and what their vectors
cannot show.
"""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from helpers import Context, from_keywords, step_loss
from torch import nn

from datasets.registry import all_datasets
from methods import cps, mean_teacher, ua_mt
from methods.helpers import ramped_consistency
from utils.losses import Loss, dice_2d

CROSS_ENTROPY = Loss({"ce": 1.0}, dice_2d)


def published(dataset, method):
    s = from_keywords(all_datasets()[dataset], method=method)
    learning_rate = (s.optimizer, s.base_lr, s.lr_schedule)
    batch = (s.batch_size, s.labeled_bs)
    return (s.max_iterations, *batch, *learning_rate, s.select)


@pytest.mark.parametrize(
    "method, iterations, schedule",
    [
        ("mean_teacher", 30_000, "poly_late"),
        ("ua_mt", 30_000, "poly_late"),
        ("cps", 30_000, "poly"),
        ("urpc", 30_000, "poly_late"),
        ("unimatch", 32_100, "poly_late"),
    ],
)
def test_the_protocol_on_acdc(method, iterations, schedule):
    expected = (iterations, 24, 12, "sgd", 0.01, schedule, "val")
    assert published("ACDC", method) == expected


@pytest.mark.parametrize("method", ["mean_teacher", "ua_mt", "cps"])
def test_the_protocol_on_la_is_that_of_ua_mt(method):
    assert published("LA", method) == (6_000, 4, 2, "sgd", 0.01, "two_drops", "last")
    s = from_keywords(all_datasets()["LA"], method=method)
    assert (s.consistency, s.consistency_rampup) == (0.1, 40)


def test_ua_mt_learns_only_the_foreground_dice_of_la():
    s = from_keywords(all_datasets()["LA"], method="ua_mt")
    assert s.losses == (("dice_foreground", 0.5), ("ce", 0.5))


def test_epochs_of_pancreas_become_iterations():
    s = from_keywords(all_datasets()["Pancreas"], method="ua_mt")
    assert (s.unit, s.max_iterations, s.val_every, s.optimizer) == ("iteration", 6_000, 200, "sgd")


def test_mean_teacher_holds_its_consistency_for_1000_iterations_of_30000_on_slices():
    s = from_keywords(all_datasets()["ACDC"], method="mean_teacher")
    assert s.consistency_start == 1000
    assert from_keywords(all_datasets()["LA"], method="mean_teacher").consistency_start == 0
    assert from_keywords(all_datasets()["ACDC"], method="ua_mt").consistency_start == 0


class Scaled(nn.Module):
    """Logits (N, 2, H, W) of which the first is the image times a weight, and the second 0."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))

    def forward(self, x):
        logits = self.weight * x
        return torch.cat([logits, torch.zeros_like(logits)], 1)


def batch(unlabelled):
    image = torch.cat([torch.ones(1, 1, 2, 2), torch.full((1, 1, 2, 2), unlabelled)])
    return {"image": image, "label": torch.zeros(1, 2, 2, dtype=torch.int64)}


@dataclass
class MethodContext(Context):
    """A context with the options of one method, and a second network."""

    loss: Loss = CROSS_ENTROPY
    method_options: Any = None
    second: nn.Module | None = None

    @property
    def options(self):
        return self.method_options

    def network(self, number=0, model=None):
        return (self.net, self.second)[number]


def test_in_a_short_run_the_hold_ends_after_the_same_share(monkeypatch):
    """1 000 of 30 000 iterations are 2 of 60: the loss of unlabelled images is 0 in iterations 0
    and 1.
    """
    monkeypatch.setattr(torch, "randn_like", torch.ones_like)
    options = mean_teacher.Options()
    stage = mean_teacher.MeanTeacher(MethodContext(Scaled(1.0), length=60, method_options=options))
    losses = [list(stage.losses(batch(1.0), step)) for step in (0, 1, 2)]
    consistencies = [loss.scalars["loss_consistency"].item() for (loss,) in losses]
    assert consistencies[:2] == [0, 0]
    # student sigmoid(1), teacher sigmoid(1 + 0.1); the squared difference is the same for both
    # classes
    difference = torch.tensor(1.0).sigmoid() - torch.tensor(1.1).sigmoid()
    assert consistencies[2] == pytest.approx(difference.square().item(), rel=1e-4)


def test_without_a_certain_pixel_ua_mt_learns_only_labels():
    """With a weight of 0 every pixel has the entropy ln 2, which is above the threshold."""
    context = MethodContext(Scaled(0.0), length=100, method_options=ua_mt.Options())
    stage = ua_mt.UncertaintyAwareMeanTeacher(context)
    (loss,) = stage.losses(batch(1.0), 0)
    assert loss.scalars["loss_consistency"].item() == 0
    assert stage.take_logged()["certain"].item() == 0


def cps_stage(options):
    context = MethodContext(Scaled(1.0), length=30_000, method_options=options, second=Scaled(-2.0))
    return cps.CrossPseudoSupervision(context)


def test_each_network_learns_the_class_of_the_other():
    """On the unlabelled image the first network's class is 0, the second one's is 1; the weight is
    0.1 at the end of the ramp.
    """
    stage = cps_stage(cps.Options())
    total = step_loss(stage, batch(1.0), 29_999).item()
    labelled = -torch.tensor([1.0, -2.0]).sigmoid().log().sum()
    pseudo = -torch.tensor(-1.0).sigmoid().log() - torch.tensor(-2.0).sigmoid().log()
    weight = ramped_consistency(cps.Options(), 29_999)
    assert total == pytest.approx((labelled + weight * pseudo).item(), rel=1e-5)


@pytest.mark.parametrize(
    "network, validated",
    [
        ("student", ("student", "other")),
        ("other", ("student", "other")),
        ("mean", ("student", "other", "mean")),
    ],
)
def test_the_selected_network_of_cps_is_validated(network, validated):
    stage = cps_stage(cps.Options(select_network=network))
    assert (stage.selected, stage.validated) == (network, validated)
