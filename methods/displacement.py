"""Displacement of ABD (CVPR 2024): the least reliable patch of one view of an image is replaced by
a reliable patch of the other view.

An image is cut into a grid of 4 patches along each axis. Shapes: images (N, C, ...), logits (N, K,
...), patches (N, P, C, ...) with P = 16 in 2-D and 64 in 3-D, numbered row by row; patch numbers
(N,).
"""

from typing import NamedTuple

import torch
from torch import Tensor

GRID = 4
"""Patches along each axis."""
CANDIDATES = 4
"""Most confident patches among which the nearest one is chosen."""


class Views(NamedTuple):
    """Two views of the same images."""

    first: Tensor
    second: Tensor


class Displaced(NamedTuple):
    """Patch numbers: `target` of a view is replaced by `source` of the other view."""

    target_first: Tensor
    source_second: Tensor
    target_second: Tensor
    source_first: Tensor


def displaced(images: Views, logits: Views, nearest: Tensor) -> Views:
    """Return both views with one patch of each replaced.

    `logits`: of the network of each view. `nearest` (N,): where True, the source is that of the
    most confident patches whose class distribution is nearest to the target's; elsewhere it is the
    most confident patch. Labels are not moved.
    """
    chosen = choose_patches(logits, nearest)
    first = cut(images.first)
    second = cut(images.second)
    samples = torch.arange(len(first), device=first.device)
    new_first = first.clone()
    new_second = second.clone()
    new_first[samples, chosen.target_first] = second[samples, chosen.source_second]
    new_second[samples, chosen.target_second] = first[samples, chosen.source_first]
    return Views(joined(new_first, images.first), joined(new_second, images.second))


@torch.no_grad()
def choose_patches(logits: Views, nearest: Tensor) -> Displaced:
    """Return which patch of each view is replaced, and by which one of the other view."""
    confidences = Views(*map(patch_confidence, logits))
    means = Views(*map(patch_means, logits))
    target_first = confidences.first.argmin(1)
    target_second = confidences.second.argmin(1)
    source_first = source_patch(
        confidences.first, means.first, target_of(means.second, target_second), nearest
    )
    source_second = source_patch(
        confidences.second, means.second, target_of(means.first, target_first), nearest
    )
    return Displaced(target_first, source_second, target_second, source_first)


def source_patch(confidence: Tensor, means: Tensor, target: Tensor, nearest: Tensor) -> Tensor:
    """Return the number of the patch that replaces one of the other view.

    `confidence` (N, P) and `means` (N, P, K), the mean logits, are of the view that gives; `target`
    (N, K) of the patch to be replaced.
    """
    candidates = confidence.topk(CANDIDATES, dim=1).indices  # (N, 4), the most confident first
    rows = candidates.unsqueeze(2).expand(-1, -1, means.shape[2])
    log_candidates = means.gather(1, rows).log_softmax(2)  # (N, 4, K)
    log_target = target.log_softmax(1).unsqueeze(1)  # (N, 1, K)
    divergence = (log_target.exp() * (log_target - log_candidates)).sum(2)  # (N, 4)
    number = torch.where(nearest, divergence.argmin(1), torch.zeros_like(candidates[:, 0]))
    return candidates.gather(1, number.unsqueeze(1)).squeeze(1)


def target_of(means: Tensor, number: Tensor) -> Tensor:
    """Return the mean logits (N, K) of one patch of each sample; `means` (N, P, K)."""
    return means[torch.arange(len(means), device=means.device), number]


def patch_confidence(logits: Tensor) -> Tensor:
    """Return the mean of the largest probability in each patch, (N, P)."""
    confidence = logits.softmax(1).amax(1, keepdim=True)
    return cut(confidence).flatten(2).mean(2)


def patch_means(logits: Tensor) -> Tensor:
    """Return the mean logits of each patch, (N, P, K)."""
    return cut(logits).flatten(3).mean(3)


def cut(x: Tensor) -> Tensor:
    """Cut (N, C, ...) into patches (N, P, C, ...).

    What remains of an axis whose length is no multiple of 4 belongs to no patch.
    """
    sides = [side // GRID for side in x.shape[2:]]
    for axis, side in enumerate(sides):
        x = x.narrow(2 + axis, 0, GRID * side)
    split = x.reshape(*x.shape[:2], *[size for side in sides for size in (GRID, side)])
    grid_axes = range(2, split.ndim, 2)
    inner_axes = range(3, split.ndim, 2)
    return split.permute(0, *grid_axes, 1, *inner_axes).flatten(1, len(sides))


def joined(patches: Tensor, image: Tensor) -> Tensor:
    """Return the image (N, C, ...) with its patches (N, P, C, ...) in their places; the inverse of
    `cut`."""
    sides = patches.shape[3:]
    dims = len(sides)
    split = patches.reshape(len(patches), *[GRID] * dims, *patches.shape[2:])  # (N, 4, 4, C, h, w)
    order = [0, 1 + dims]
    for axis in range(dims):
        order += [1 + axis, 2 + dims + axis]
    whole = split.permute(order).reshape(*image.shape[:2], *[GRID * side for side in sides])
    result = image.clone()
    inside = [slice(0, GRID * side) for side in sides]
    result[(slice(None), slice(None), *inside)] = whole
    return result
