"""Label maps: the most probable class of each pixel, and the largest connected components."""

from typing import Literal

import cc3d
import numpy as np
import torch
from torch import Tensor

from utils.axes import other_axes


def most_probable(scores: Tensor) -> Tensor:
    """Return the class (...) uint8 with the largest of the scores (K, ...), K at least 2.

    Of equal scores the first one counts.

    The result is that of `scores.argmax(0)`, which takes up to 100 times as long on the CPU
    (benchmarks/validation.py).
    """
    best = scores[0]
    number = (scores[1] > scores[0]).view(torch.uint8)
    for k in range(2, len(scores)):
        best = torch.maximum(best, scores[k - 1])
        number = torch.maximum(number, (scores[k] > best).view(torch.uint8) * k)
    return number


Connectivity = Literal[4, 6, 8, 18, 26]
_CONNECTIVITIES = {2: (4, 8), 3: (6, 18, 26)}


def largest_component(mask: np.ndarray, connectivity: Connectivity) -> np.ndarray:
    """Return the largest component of a mask (H, W) or (D, H, W), as a bool array.

    The largest is the one with the most voxels.

    Every non-zero element counts as foreground. An empty mask stays empty.
    """
    labels = np.asarray(mask, dtype=bool).view(np.uint8)
    kept = largest_component_per_class(labels[None], classes=2, connectivity=connectivity)
    return kept[0].view(bool)


def largest_component_per_class(
    labels: np.ndarray, classes: int, connectivity: Connectivity
) -> np.ndarray:
    """Keep the largest component of each class 1..classes-1 in each sample.

    Everything else becomes 0.

    `labels` are integers of shape (N, H, W) or (N, D, H, W); the result has the same shape and
    dtype. A class that is absent from a sample stays absent. `connectivity` is 4 or 8 in 2-D, and
    6, 18 or 26 in 3-D. If several components have the largest size, the first one in raster order
    is kept. Raises ValueError for another number of axes or another connectivity.
    """
    if connectivity not in _CONNECTIVITIES.get(labels.ndim - 1, ()):
        raise ValueError(
            f"label maps of shape {labels.shape} have no components of connectivity {connectivity}"
        )
    kept = np.zeros_like(labels)
    if labels.size and (labels.max() >= classes or labels.min() < 0):
        labels = np.where((labels > 0) & (labels < classes), labels, 0)
    box = _foreground(labels)
    if box is None:
        return kept
    part = labels[(slice(None), *box)]
    # An empty row after each sample separates the components of one sample from those of the next.
    shape = (len(part), part.shape[1] + 1, *part.shape[2:])
    stack = np.zeros(shape, np.min_scalar_type(classes))
    stack[:, :-1] = part
    # As unsigned integers, not bool: cc3d 4.1.1 fails on some thin bool volumes (26) and numbers
    # bool components out of raster order (8).
    components = cc3d.connected_components(
        stack.reshape(-1, *stack.shape[2:]), connectivity=connectivity
    )
    flat = stack.reshape(-1)
    # Most of a label map is background: the following lines only process foreground voxels.
    foreground = np.flatnonzero(flat != 0)
    numbers = components.ravel()[foreground]  # component number of each foreground voxel
    sizes = np.bincount(numbers)
    # First voxel of each component in raster order. Runs of one component are assigned from the
    # last to the first, so that the first run overwrites the others.
    first = np.zeros(len(sizes), np.int64)
    run_starts = np.flatnonzero(numbers[1:] != numbers[:-1]) + 1
    runs = np.append(run_starts[::-1], 0)
    first[numbers[runs]] = foreground[runs]
    sample = first // stack[0].size
    group = sample * classes + flat[first]  # one number for each pair of sample and class
    group[0] = -1  # the background
    # Sorted by group, then largest first, then first in raster order: the first component of each
    # group is kept.
    order = np.lexsort((first, -sizes, group))
    starts_group = np.diff(group[order]) > 0
    is_largest = np.zeros(len(sizes), bool)
    is_largest[order[1:][starts_group]] = True
    removed = foreground[~is_largest[numbers]]
    flat[removed] = 0
    kept[(slice(None), *box)] = stack[:, :-1]
    return kept


def _foreground(labels: np.ndarray) -> tuple[slice, ...] | None:
    """Return the bounding box of the foreground of all samples (N, ...).

    None if there is no foreground.
    """
    if len(labels) == 0:
        return None
    union = np.bitwise_or.reduce(labels, axis=0)
    box = []
    for axis in range(union.ndim):
        others = other_axes(union.ndim, axis)
        filled = np.flatnonzero(np.bitwise_or.reduce(union, axis=others))
        if not filled.size:
            return None
        box.append(slice(filled[0], filled[-1] + 1))
    return tuple(box)
