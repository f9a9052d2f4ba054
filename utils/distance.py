"""Exact Euclidean distances of masks, computed on the device that holds them."""

import torch
from torch import Tensor

from utils.losses import one_hot

FAR = 1e9
"""Squared distance to a mask that has no pixel."""


def squared_distances(mask: Tensor, dims: int) -> Tensor:
    """Return the squared distance of each pixel to the nearest pixel of its mask, in pixels.

    The distance is `FAR` for an empty mask.

    `mask`: (..., *sides) bool, the last `dims` axes are spatial; every leading index is a mask of
    its own. Distances are exact up to float32 (whole numbers below 2^24). Distances along one axis
    after another give those of the whole image (Felzenszwalb & Huttenlocher, 2012).
    """
    distances = torch.where(mask, 0.0, FAR)
    for axis in range(mask.ndim - dims, mask.ndim):
        distances = _nearest_along(distances, axis)
    return distances


def _nearest_along(values: Tensor, axis: int) -> Tensor:
    """Return min over j of values[j] + (i - j)^2 for every position i of an axis."""
    nearest = values.clone()
    length = values.shape[axis]
    for shift in range(1, length):
        count = length - shift
        first = values.narrow(axis, 0, count)
        last = values.narrow(axis, shift, count)
        nearest_first = nearest.narrow(axis, 0, count)
        nearest_last = nearest.narrow(axis, shift, count)
        torch.minimum(nearest_first, last + shift**2, out=nearest_first)
        torch.minimum(nearest_last, first + shift**2, out=nearest_last)
    return nearest


def signed_distances(label: Tensor, classes: int) -> Tensor:
    """Return signed distance maps (N, classes - 1, ...) in -1..1 of labels (N, ...).

    There is a map for each foreground class.

    Outside an object the value is the distance to it; inside it is minus the distance to the
    outside. Each is divided by its largest value in the image. The value is 0 on the inner
    boundary, the object's pixels with a neighbour outside (SASSNet and DTC). It is 0 everywhere if
    the object is absent or fills the image.
    """
    dims = label.ndim - 1
    inside = one_hot(label, classes)[:, 1:].bool()
    to_object = squared_distances(inside, dims)
    to_outside = squared_distances(~inside, dims)
    scaled = _scaled(to_object) - _scaled(to_outside)
    is_boundary = to_outside == 1
    has_boundary = is_boundary.flatten(2).any(2).view(*inside.shape[:2], *[1] * dims)
    return torch.where(has_boundary & ~is_boundary, scaled, 0.0)


def _scaled(squared: Tensor) -> Tensor:
    """Return distances divided by the largest of their image; (N, C, ...)."""
    distances = squared.sqrt()
    largest = distances.flatten(2).amax(2)
    return distances / largest.clamp(min=1.0).view(*largest.shape, *[1] * (squared.ndim - 2))
