"""Confidence thresholds of classes, by hand."""

import pytest
import torch
from helpers import Context

from methods.class_thresholds import ClassThresholds, ConfidenceOptions
from methods.unimatch import UniMatch
from networks.registry import build

SURE = torch.tensor([[0.95, 0.90, 0.70]])
LABEL = torch.tensor([[0, 1, 2]])


def thresholds(class_thresholds=True):
    return ClassThresholds(ConfidenceOptions(0.9, class_thresholds), classes=4)


def test_without_the_flag_all_classes_have_one_threshold():
    one = thresholds(class_thresholds=False)
    one.see(SURE, LABEL)
    one.update()
    assert one.trusted(SURE, LABEL).tolist() == [[1, 1, 0]]
    assert one.state() == {}


def test_training_begins_with_one_threshold():
    assert thresholds().trusted(SURE, LABEL).tolist() == [[1, 1, 0]]


def test_a_mean_moves_by_a_thousandth_towards_the_confidence_of_its_class():
    """Class 3 is predicted nowhere and keeps 1/4."""
    some = thresholds()
    some.see(SURE, LABEL)
    some.update()
    expected = [0.24975 + 0.00095, 0.24975 + 0.0009, 0.24975 + 0.0007, 0.25]
    assert some.means.tolist() == pytest.approx(expected, abs=1e-7)


def test_a_class_of_half_the_confidence_has_half_the_threshold():
    """Thresholds are 0.9, 0.9, 0.45 and 0.9 after the means 0.8, 0.8, 0.4 and 0.8."""
    some = thresholds()
    some.means = torch.tensor([0.8, 0.8, 0.4, 0.8])
    assert some.trusted(SURE, LABEL).tolist() == [[1, 1, 1]]
    assert some.trusted(SURE, torch.zeros_like(LABEL)).tolist() == [[1, 1, 0]]


def test_a_resumed_stage_has_its_means():
    settings = {"confidence": 0.9, "class_thresholds": True}

    def stage():
        return UniMatch(Context(build("unet_unimatch", 1, 4, {}), settings=settings))

    first = stage()
    first.thresholds.see(SURE, LABEL)
    first.after_step(0)
    second = stage()
    second.load_state_dict(first.state_dict())
    assert torch.equal(second.thresholds.means, first.thresholds.means)
