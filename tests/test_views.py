"""Strong views: hand-made images, blurs and factors."""

import math

import pytest
import torch

from methods.views import (
    changed_brightness,
    changed_contrast,
    gaussian_blur,
    strong_view,
    value_range,
)

HALF = torch.full((1, 1, 1, 1), 0.5)


def test_brightness_multiplies_and_cuts_off():
    x = torch.tensor([0.0, 0.4, 0.8]).view(1, 1, 1, 3)
    assert changed_brightness(x, 1.5 * torch.ones(1, 1, 1, 1)).flatten().tolist() == pytest.approx(
        [0.0, 0.6, 1.0]
    )


def test_contrast_halves_the_distance_from_the_mean():
    x = torch.tensor([0.0, 0.5, 1.0]).view(1, 1, 1, 3)
    assert changed_contrast(x, HALF).flatten().tolist() == pytest.approx([0.25, 0.5, 0.75])


@pytest.mark.parametrize("dims", [2, 3])
def test_blur_of_a_point_is_a_gaussian_of_its_own_width(dims):
    """Along each axis, neighbours of the point fall by exp(-1 / (2 sigma^2)); the sum stays 1."""
    x = torch.zeros(2, 1, *[17] * dims)
    x[(slice(None), slice(None), *[8] * dims)] = 1
    sigma = torch.tensor([0.5, 1.0]).view(2, 1, *[1] * dims)
    blurred = gaussian_blur(x, sigma)
    for number, one in enumerate((0.5, 1.0)):
        point = blurred[(number, 0, *[8] * dims)]
        beside = blurred[(number, 0, 7, *[8] * (dims - 1))]
        assert float(beside / point) == pytest.approx(math.exp(-1 / (2 * one**2)), rel=1e-4)
        assert float(blurred[number].sum()) == pytest.approx(1, rel=1e-4)


def test_blur_repeats_the_border():
    x = torch.ones(1, 1, 4, 4)
    torch.testing.assert_close(gaussian_blur(x, 2 * torch.ones(1, 1, 1, 1)), x)


def test_a_view_of_another_scale_of_values_is_the_view_in_that_scale():
    x = torch.rand(4, 2, 16, 16)
    torch.manual_seed(3)
    view = strong_view(x)
    torch.manual_seed(3)
    torch.testing.assert_close(strong_view(100 * x - 7), 100 * view - 7, rtol=1e-3, atol=1e-3)


def test_views_differ_and_stay_in_the_range_of_their_image():
    x = torch.rand(1, 1, 16, 16).expand(32, 1, 16, 16)
    torch.manual_seed(0)
    view = strong_view(x)
    assert len({round(float(one.std()), 6) for one in view}) > 16
    low, span = value_range(x)
    assert (view >= low - 1e-6).all() and (view <= low + span + 1e-6).all()


def test_an_image_of_one_value_stays_as_it_is():
    x = torch.full((2, 1, 8, 8, 8), 3.0)
    torch.testing.assert_close(strong_view(x), x)
