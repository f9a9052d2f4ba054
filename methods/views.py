"""Strong intensity views of images, made on their device: brightness, contrast and blur, as in
UniMatch (CVPR 2023).

Shapes: images (N, C, ...). Each image has its own draws. Values are changed relative to the range
of each image, so that a view means the same for images of 0..1, of 0..255 and of mean 0.
"""

import torch
from torch import Tensor

JITTER_PROBABILITY = 0.8
JITTER = 0.5
"""Brightness and contrast are multiplied by a number between 1 - JITTER and 1 + JITTER."""
BLUR_PROBABILITY = 0.5
SIGMAS = (0.1, 2.0)
"""Smallest and largest standard deviation of the blur in pixels."""
BLUR_RADIUS = 6


def strong_view(image: Tensor) -> Tensor:
    """Return the images with random brightness and contrast (probability 0.8) and Gaussian blur
    (probability 0.5)."""
    low, span = value_range(image)
    x = (image - low) / span
    jittered = changed_contrast(changed_brightness(x, draw_factor(x)), draw_factor(x))
    x = torch.where(draw(x) < JITTER_PROBABILITY, jittered, x)
    smallest, largest = SIGMAS
    blurred = gaussian_blur(x, smallest + (largest - smallest) * draw(x))
    x = torch.where(draw(x) < BLUR_PROBABILITY, blurred, x)
    return x * span + low


def value_range(image: Tensor) -> tuple[Tensor, Tensor]:
    """Return the smallest value of each image's channel and the distance to the largest, (N, C, 1,
    ...) each."""
    axes = list(range(2, image.ndim))
    low = image.amin(axes, keepdim=True)
    return low, (image.amax(axes, keepdim=True) - low).clamp_min(1e-8)


def draw(x: Tensor) -> Tensor:
    """Draw a number between 0 and 1 for each image, (N, 1, ...)."""
    return torch.rand((len(x), *[1] * (x.ndim - 1)), device=x.device)


def draw_factor(x: Tensor) -> Tensor:
    """Draw a factor on brightness or contrast for each image, (N, 1, ...)."""
    return 1 + JITTER * (2 * draw(x) - 1)


def changed_brightness(x: Tensor, factor: Tensor) -> Tensor:
    """Return images with values 0..1 times a factor, cut off at 1."""
    return (x * factor).clamp(0, 1)


def changed_contrast(x: Tensor, factor: Tensor) -> Tensor:
    """Return images with values 0..1 whose distance from their mean is multiplied by a factor, cut
    off at 0 and 1."""
    mean = x.mean(list(range(1, x.ndim)), keepdim=True)
    return (mean + factor * (x - mean)).clamp(0, 1)


def gaussian_blur(x: Tensor, sigma: Tensor) -> Tensor:
    """Return images (N, C, ...) blurred along every spatial axis with the standard deviation
    `sigma` (N, 1, ...) in pixels.

    Beyond the border the outermost values are repeated.
    """
    offsets = torch.arange(-BLUR_RADIUS, BLUR_RADIUS + 1, device=x.device)
    weights = (-offsets.square() / (2 * sigma.flatten(1).square())).exp()  # (N, 2 BLUR_RADIUS + 1)
    weights = weights / weights.sum(1, keepdim=True)
    for axis in range(2, x.ndim):
        side = x.shape[axis]
        positions = torch.arange(side, device=x.device)
        blurred = torch.zeros_like(x)
        for number, offset in enumerate(range(-BLUR_RADIUS, BLUR_RADIUS + 1)):
            shifted = x.index_select(axis, (positions + offset).clamp(0, side - 1))
            blurred += weights[:, number].view(sigma.shape) * shifted
        x = blurred
    return x
