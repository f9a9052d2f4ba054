"""Images and label maps as coloured pictures."""

import numpy as np

# Black background, then colours that colour-blind people can distinguish (Okabe & Ito).
COLOURS = np.array(
    [[0, 0, 0], [86, 180, 233], [230, 159, 0], [204, 121, 167], [0, 158, 115], [240, 228, 66]],
    np.uint8,
)


def grey_picture(image: np.ndarray) -> np.ndarray:
    """Convert an image (H, W) to (H, W, 3) uint8, scaled from its minimum to its maximum."""
    low = float(image.min())
    high = float(image.max())
    scaled = np.zeros_like(image)
    if high > low:
        scaled = (image - low) / (high - low) * 255
    return np.repeat(scaled.astype(np.uint8)[..., None], 3, -1)


def label_picture(label: np.ndarray) -> np.ndarray:
    """Convert class numbers (H, W) to colours (H, W, 3) uint8."""
    return COLOURS[_rows(label)]


def overlay(image: np.ndarray, label: np.ndarray, opacity: float = 0.45) -> np.ndarray:
    """Return the grey image with the label's colours over it, (H, W, 3) uint8.

    Background is not coloured.
    """
    grey = grey_picture(image)
    tinted = ((1 - opacity) * grey + opacity * label_picture(label)).astype(np.uint8)
    return np.where((label > 0)[..., None], tinted, grey)


def colour(number: int) -> str:
    """Return the colour of a class in CSS notation."""
    return "#" + "".join(f"{part:02x}" for part in COLOURS[int(_rows(number))])


def _rows(numbers: int | np.ndarray) -> np.ndarray:
    """Return the rows of `COLOURS` for class numbers.

    The background has row 0. The other classes use the other rows in turn, again from row 1 after
    the last one.
    """
    numbers = np.asarray(numbers)
    return np.where(numbers > 0, 1 + (numbers - 1) % (len(COLOURS) - 1), 0)
