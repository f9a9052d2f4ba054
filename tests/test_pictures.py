"""Colours of classes in pictures."""

import numpy as np
import pytest

from utils.pictures import COLOURS, colour, label_picture, overlay


def test_classes_up_to_5_have_the_colours_of_the_table():
    label = np.arange(6, dtype=np.uint8)[None]
    assert np.array_equal(label_picture(label)[0], COLOURS)


@pytest.mark.parametrize("number, row", [(6, 1), (10, 5), (11, 1), (12, 2), (255, 5)])
def test_classes_above_5_use_the_colours_again_without_that_of_the_background(number, row):
    label = np.full((1, 1), number, np.uint8)
    assert np.array_equal(label_picture(label)[0, 0], COLOURS[row])


def test_an_overlay_shows_class_6_like_class_1():
    image = np.zeros((2, 2))
    ones = np.ones((2, 2), np.uint8)
    assert np.array_equal(overlay(image, 6 * ones), overlay(image, ones))


def test_the_colour_of_class_6_is_not_that_of_the_background():
    assert colour(6) == colour(1)


def test_the_colour_of_the_background_is_black():
    assert colour(0) == "#000000"
