"""Warnings about images without contrast and labels without foreground, when they are read."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from utils.errors import UserError

SHOWN = 3
"""How many files a warning names."""


class Contents:
    """Counts constant images and empty labels, one case after the other; `say` gets the warnings at
    the end. `classes`: the foreground classes of all labels.
    """

    def __init__(self, what: str, whole: bool, say: Callable[[str], None]) -> None:
        """`what`: the name of the images in messages. `whole`: whether each label should have a
        foreground, as those of volumes should; labels of many slices have none.
        """
        self.what = what
        self.whole = whole
        self.say = say
        self.constant: list[Path] = []
        self.empty: list[Path] = []
        self.images = 0
        self.labels = 0
        self.classes: set[int] = set()

    def look(self, path: Path, image: np.ndarray, labels: Sequence[np.ndarray]) -> None:
        """Count an image (C, ...) and its labels, if it has any."""
        self.images += 1
        if any(channel.min() == channel.max() for channel in image):
            self.constant.append(path)
        if labels:
            self.labels += 1
            if not any(label.any() for label in labels):
                self.empty.append(path)
            for label in labels:
                if label.ndim == image.ndim:
                    label = label[0]  # the second channel holds distances
                self.classes |= foreground_classes(label)

    def report(self) -> None:
        """Send the warnings; raise UserError where nothing can be learnt or scored: all images are
        constant, or all labels empty.
        """
        self._refuse_all(self.constant, self.images, fault="a constant image")
        self._refuse_all(self.empty, self.labels, fault="a label without foreground")
        if self.constant:
            self.say(
                f"warning: {_listed(self.constant, self.images)} {self.what} have a constant "
                "image; check them"
            )
        if self.empty and self.whole:
            self.say(
                f"warning: {_listed(self.empty, self.labels)} {self.what} have a label without "
                "foreground; check them"
            )

    def _refuse_all(self, paths: Sequence[Path], count: int, fault: str) -> None:
        if paths and len(paths) == count:
            raise UserError(
                f"{paths[0]}: {fault}, and so are all {count} {self.what} that have one; prepare "
                "them again"
            )


def foreground_classes(label: np.ndarray) -> set[int]:
    """Return the class numbers above 0 that a label of whole numbers has."""
    counts = np.bincount(label.reshape(-1))
    classes: list[int] = np.flatnonzero(counts).tolist()
    return {number for number in classes if number > 0}


def _listed(paths: Sequence[Path], count: int) -> str:
    names = ", ".join(map(str, paths[:SHOWN]))
    if len(paths) > SHOWN:
        names += ", ..."
    return f"{len(paths)} of {count} ({names})"
