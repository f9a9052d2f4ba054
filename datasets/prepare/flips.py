"""Detect labels that are flipped with respect to their images, the most frequent fault of data that
two readers converted.
"""

from collections.abc import Mapping
from itertools import product
from pathlib import Path

import numpy as np

Flips = tuple[bool, ...]
# The intensities inside an organ vary little. A flipped label covers other tissue as well: on a
# real CT their standard deviation is 375 HU instead of 22. A flip is reported where the intensities
# inside the label would vary BETTER_RATIO times less than for the label as it is (true labels of
# 200 ACDC volumes reach 2.07, those of 100 LA scans 1), and BETTER_RATIO times less than for the
# median of the other flips: a ragged tumour, whose label is more even at any other place, is not
# flipped. Nothing is reported where the standard deviation inside the label is below
# SMALL_SPREAD_SHARE of the whole image's.
SMALL_SPREAD_SHARE = 0.15
BETTER_RATIO = 2.25
# In MR one label is weaker evidence than all of them together: the same flip is better, by however
# little, for at most 9 % of the true labels of ACDC, for none of LA's, and for at least 91 % of
# labels that were flipped.
AGREEING_SHARE = 2 / 3
FEWEST_LABELS = 5
# One label among at least FEWEST_FOR_OUTLIERS is reported where its best flip is OUTLIER_RATIO
# times better than that of all but 5 % of them. Of LA's labels, flipped one at a time, 65 to 85 %
# are detected so (20 to 40 % with BETTER_RATIO only; of ACDC's 3 %), and no true one of either.
OUTLIER_RATIO = 1.6
FEWEST_FOR_OUTLIERS = 20


def spreads(image: np.ndarray, label: np.ndarray) -> dict[Flips, float]:
    """Standard deviation of the intensities inside the label, around the mean of each class, for
    every flip of the label.

    Image and label have one shape; the label has whole numbers from 0. The result is 0 for an empty
    label.
    """
    indices = np.nonzero(label)
    classes = label[indices]
    if not classes.size:
        return dict.fromkeys(product((False, True), repeat=label.ndim), 0.0)
    counts = np.maximum(np.bincount(classes), 1)
    result = {}
    for flips in product((False, True), repeat=label.ndim):
        flipped_indices = []
        for index, side, is_flipped in zip(indices, label.shape, flips, strict=True):
            if is_flipped:
                index = side - 1 - index
            flipped_indices.append(index)
        inside = image[tuple(flipped_indices)].astype(np.float64)
        means = np.bincount(classes, inside) / counts
        result[flips] = float(np.sqrt(((inside - means[classes]) ** 2).mean()))
    return result


def better_flip(image: np.ndarray, spread_of: Mapping[Flips, float]) -> Flips | None:
    """The flip with which the label fits much better, None if there is none.

    `spread_of`: the result of `spreads`.
    """
    unflipped = spread_of[(False,) * image.ndim]
    best, *others = sorted(spread_of, key=lambda flips: spread_of[flips])
    # the spread of a large scan is computed without a copy of it
    steps = tuple(slice(None, None, 1 + side // 256) for side in image.shape)
    if unflipped < SMALL_SPREAD_SHARE * image[steps].std():
        return None
    compared = min(unflipped, float(np.median([spread_of[flips] for flips in others])))
    if spread_of[best] * BETTER_RATIO > compared:
        return None
    return best


def flip_warning(
    path: Path, image: np.ndarray, spread_of: Mapping[Flips, float], axes: str = "xyz"
) -> str | None:
    """A warning where the intensities inside a label would vary much less if it were flipped.

    `spread_of`: the result of `spreads`. `axes`: of image and label.
    """
    best = better_flip(image, spread_of)
    if best is None:
        return None
    unflipped = spread_of[(False,) * image.ndim]
    times = min(unflipped / max(spread_of[best], 1e-9), 1000)
    return (
        f"{path}: fits better flipped along {', '.join(flipped_axes(best, axes))}: inside it the "
        f"image's spread is {_rounded(spread_of[best])} instead of {_rounded(unflipped)}; possibly "
        f"the label is flipped: the spread is {times:.1f} times smaller, and none of 300 true "
        f"labels (ACDC, LA) reached {BETTER_RATIO} times, but a ragged organ in even surroundings "
        "may. Look at both together before you train on it"
    )


def flipped_axes(flips: Flips, axes: str) -> str:
    """The letters of the axes that are flipped, in order: "", "x", "yz" ..."""
    return "".join(sorted(axis for axis, is_flipped in zip(axes, flips, strict=True) if is_flipped))


def _rounded(spread: float) -> str:
    if spread >= 10:
        return f"{spread:.0f}"
    return f"{spread:.2g}"
