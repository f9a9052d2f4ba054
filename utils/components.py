"""The largest connected component of a mask, and of each class of a batch of label maps."""

from typing import Literal

import cc3d
import numpy as np

Connectivity = Literal[4, 6, 8, 18, 26]
_CONNECTIVITIES = {2: (4, 8), 3: (6, 18, 26)}


def largest_component(mask: np.ndarray, connectivity: Connectivity) -> np.ndarray:
    """Keep the component with the most voxels: (H, W) or (D, H, W), non-zero is foreground -> bool array of that shape.

    As `largest_component_per_class` of one sample and one class. An empty mask stays empty.
    """
    return largest_component_per_class(
        np.asarray(mask, dtype=bool).view(np.uint8)[None], 2, connectivity
    )[0].view(bool)


def largest_component_per_class(
    labels: np.ndarray, classes: int, connectivity: Connectivity
) -> np.ndarray:
    """Keep, in each sample, the largest component of each class 1..classes-1; everything else becomes 0.

    `labels` are integers, (N, H, W) or (N, D, H, W); shape and dtype stay. A class that a sample lacks stays absent. `connectivity` is
    4 or 8 in 2-D, 6, 18 or 26 in 3-D. Of components of one size the first in raster order stays.
    Raises ValueError for another number of axes or another connectivity.
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
    # with an empty row after each sample, so that no component of one touches the next one's
    stack = np.zeros((len(part), part.shape[1] + 1, *part.shape[2:]), np.min_scalar_type(classes))
    stack[:, :-1] = part
    # As unsigned integers, not bool: cc3d 4.1.1 fails on some thin bool volumes (26) and numbers bool components out of raster order (8).
    components = cc3d.connected_components(
        stack.reshape(-1, *stack.shape[2:]), connectivity=connectivity
    )
    flat = stack.reshape(-1)
    places = np.flatnonzero(
        flat != 0
    )  # most of a label map is background: from here on only its foreground voxels are looked at
    numbers = components.ravel()[places]
    sizes = np.bincount(numbers)
    first = np.zeros(
        len(sizes), np.int64
    )  # each component's first voxel in raster order: of those written the last one stays
    runs = np.append(np.flatnonzero(numbers[1:] != numbers[:-1])[::-1] + 1, 0)
    first[numbers[runs]] = places[runs]
    group = first // stack[0].size * classes + flat[first]  # sample and class of a component
    group[0] = -1  # the background
    order = np.lexsort((first, -sizes, group))
    largest = np.zeros(len(sizes), bool)
    largest[order[1:][np.diff(group[order]) > 0]] = True
    flat[places[~largest[numbers]]] = 0
    kept[(slice(None), *box)] = stack[:, :-1]
    return kept


def _foreground(labels: np.ndarray) -> tuple[slice, ...] | None:
    """The box that holds the foreground of all samples (N, ...), None where there is none."""
    flat = (
        np.bitwise_or.reduce(labels, axis=0)
        if len(labels)
        else np.zeros(labels.shape[1:], labels.dtype)
    )
    box = []
    for axis in range(flat.ndim):
        filled = np.flatnonzero(
            np.bitwise_or.reduce(
                flat, axis=tuple(other for other in range(flat.ndim) if other != axis)
            )
        )
        if not filled.size:
            return None
        box.append(slice(filled[0], filled[-1] + 1))
    return tuple(box)
