"""DTC: signed distances by hand and against scipy, and the published numbers of its runs."""

import numpy as np
import pytest
import torch
from helpers import from_keywords
from scipy.ndimage import distance_transform_edt

from datasets import acdc, la, pancreas
from methods.dtc import mask_of
from utils.distance import FAR, signed_distances, squared_distances


def test_signed_distances_of_a_line_by_hand():
    """Outside minus inside distances, of the largest one (2). Both ends are the inner boundary."""
    label = torch.tensor([[0, 0, 1, 1, 1, 0]])
    expected = torch.tensor([[[1.0, 0.5, 0.0, -1.0, 0.0, 0.5]]])
    torch.testing.assert_close(signed_distances(label, classes=2), expected)


def test_a_diagonal_neighbour_outside_makes_no_boundary():
    """The pixel next to the corner along the diagonal is the square root of 2 away from it."""
    label = torch.ones(1, 4, 4, dtype=torch.long)
    label[0, 0, 0] = 0
    distances = signed_distances(label, classes=2)[0, 0]
    assert distances[0, 1] == distances[1, 0] == 0
    largest = 18**0.5
    assert distances[1, 1].item() == pytest.approx(-(2**0.5) / largest)
    assert distances[3, 3].item() == pytest.approx(-1)


@pytest.mark.parametrize("value", [0, 1])
def test_an_absent_object_and_one_that_fills_the_image_have_no_distances(value):
    label = torch.full((2, 4, 4), value)
    assert not signed_distances(label, classes=2).any()


def test_each_class_and_each_sample_has_its_own_map():
    first = torch.tensor([[0, 1, 2, 2]])
    second = torch.tensor([[2, 2, 0, 1]])
    both = signed_distances(torch.cat([first, second]), classes=3)
    assert both.shape == (2, 2, 4)
    for number, label in enumerate((first, second)):
        torch.testing.assert_close(both[number : number + 1], signed_distances(label, classes=3))
    torch.testing.assert_close(both[0, 0], torch.tensor([0.5, 0.0, 0.5, 1.0]))
    torch.testing.assert_close(both[0, 1], torch.tensor([1.0, 0.5, 0.0, -1.0]))


@pytest.mark.parametrize("size", [(9, 14), (5, 8, 11)])
def test_distances_are_those_of_scipy(size):
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(2, *size, generator=generator) > 0.9
    distances = squared_distances(mask, len(size)).sqrt()
    for ours, one in zip(distances, mask, strict=True):
        np.testing.assert_allclose(ours, distance_transform_edt(~one.numpy()), rtol=1e-6)


def test_nothing_is_near_to_an_empty_mask():
    assert (squared_distances(torch.zeros(3, 4, dtype=torch.bool), 2) >= FAR).all()


def test_the_mask_of_a_distance_is_1_inside_and_one_half_on_the_boundary():
    mask = mask_of(torch.tensor([-0.1, 0.0, 0.1]))
    torch.testing.assert_close(mask, torch.tensor([1.0, 0.5, 0.0]))
    assert mask_of(torch.tensor(0.001)).item() == pytest.approx(1 / (1 + np.exp(1.5)))


@pytest.mark.parametrize("dataset", [la.DATASET, pancreas.DATASET], ids=["LA", "Pancreas"])
def test_volumes_are_trained_with_the_published_numbers(dataset):
    settings = from_keywords(dataset, method="dtc")
    assert (settings.model, settings.losses) == ("VNet_dtc", (("dice_foreground", 1.0),))
    assert (settings.distance_weight, settings.consistency, settings.consistency_rampup) == (
        0.3,
        1.0,
        40,
    )
    assert (settings.max_iterations, settings.select) == (6_000, "last")
    assert (settings.batch_size, settings.labeled_bs, settings.base_lr) == (4, 2, 0.01)
    assert settings.lr_schedule == "two_drops"


def test_slices_are_trained_with_the_u_net():
    settings = from_keywords(acdc.DATASET, method="dtc")
    assert (settings.model, settings.max_iterations) == ("unet_dtc", 30_000)
