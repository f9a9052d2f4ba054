"""Images and label maps as coloured pictures."""

import numpy as np

# background black, then colours that stay apart for colour-blind eyes (Okabe & Ito)
COLOURS = np.array(
    [[0, 0, 0], [86, 180, 233], [230, 159, 0], [204, 121, 167], [0, 158, 115], [240, 228, 66]],
    np.uint8,
)


def grey_picture(image: np.ndarray) -> np.ndarray:
    """(H, W) of any range to (H, W, 3) uint8, stretched from its minimum to its maximum."""
    low, high = float(image.min()), float(image.max())
    scaled = (image - low) / (high - low) * 255 if high > low else np.zeros_like(image)
    return np.repeat(scaled.astype(np.uint8)[..., None], 3, -1)


def label_picture(label: np.ndarray) -> np.ndarray:
    """(H, W) class numbers to (H, W, 3) uint8 colours."""
    return COLOURS[label % len(COLOURS)]


def overlay(image: np.ndarray, label: np.ndarray, opacity: float = 0.45) -> np.ndarray:
    """The label's colours over the grey image, background left clear; (H, W, 3) uint8."""
    grey = grey_picture(image)
    tinted = ((1 - opacity) * grey + opacity * label_picture(label)).astype(np.uint8)
    return np.where((label > 0)[..., None], tinted, grey)


def colour(number: int) -> str:
    """A class's colour as CSS writes it."""
    return "#" + "".join(f"{part:02x}" for part in COLOURS[number % len(COLOURS)])
