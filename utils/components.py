"""The largest connected component of a mask, and of each class of a batch of label maps."""

import cc3d
import numpy as np

_CONNECTIVITIES = {2: (4, 8), 3: (6, 18, 26)}


def largest_component(mask: np.ndarray, connectivity: int) -> np.ndarray:
    """Keep the component with the most voxels: (H, W) or (D, H, W), non-zero is foreground -> bool array of that shape.

    `connectivity` is 4 or 8 in 2-D, 6, 18 or 26 in 3-D. Of components of one size the first in raster order stays.
    An empty mask stays empty. Raises ValueError for another number of axes or another connectivity.
    """
    mask = np.ascontiguousarray(mask, dtype=bool)
    if connectivity not in _CONNECTIVITIES.get(mask.ndim, ()):
        raise ValueError(f"a mask of shape {mask.shape} has no components of connectivity {connectivity}")
    if not mask.any():
        return mask.copy()
    # As uint8, not bool: cc3d 4.1.1 fails on some thin bool volumes (26) and numbers bool components out of raster order (8).
    components = cc3d.connected_components(mask.view(np.uint8), connectivity=connectivity)
    sizes = np.bincount(components.ravel())
    return components == sizes[1:].argmax() + 1


def largest_component_per_class(labels: np.ndarray, classes: int, connectivity: int) -> np.ndarray:
    """Keep, in each sample, the largest component of each class 1..classes-1; everything else becomes 0.

    `labels` are integers, (N, H, W) or (N, D, H, W); shape and dtype stay. A class that a sample lacks stays absent.
    Raises ValueError as `largest_component` does.
    """
    kept = np.zeros_like(labels)
    for sample, result in zip(labels, kept, strict=True):
        for label in range(1, classes):
            result[largest_component(sample == label, connectivity)] = label
    return kept
