"""Images with nothing to see and labels with nothing drawn, told when they are read."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from utils.errors import UserError

SHOWN = 3


class Contents:
    """Looks at one case after the other; `say` is told at the end what is strange."""

    def __init__(self, what: str, whole: bool, say: Callable[[str], None]):
        """`what` they are, for the messages; `whole`: volumes, whose labels should each hold something (of slices many hold nothing)."""
        self.what, self.whole, self.say = what, whole, say
        self.constant: list[Path] = []
        self.empty: list[Path] = []
        self.images = self.labels = 0

    def look(self, path: Path, image: np.ndarray, labels: Sequence[np.ndarray]) -> None:
        """An image (C, ...) and its labels, if it has any."""
        self.images += 1
        if any(channel.min() == channel.max() for channel in image):
            self.constant.append(path)
        if labels:
            self.labels += 1
            if not any(label.any() for label in labels):
                self.empty.append(path)

    def tell(self) -> None:
        """Raises UserError where nothing can be learnt or scored: all images are constant, or all labels empty."""
        for found, count, fault in (
            (self.constant, self.images, "an image of one value, nothing to see"),
            (self.empty, self.labels, "a label without foreground"),
        ):
            if found and len(found) == count:
                raise UserError(
                    f"{found[0]}: {fault}, and so are all {count} {self.what} that have one; prepare them again"
                )
        if self.constant:
            self.say(
                f"warning: {_listed(self.constant, self.images)} {self.what} hold one value alone, nothing to see; look at them"
            )
        if self.empty and self.whole:
            self.say(
                f"warning: {_listed(self.empty, self.labels)} {self.what} have a label without foreground; look at them"
            )


def _listed(paths: Sequence[Path], count: int) -> str:
    return f"{len(paths)} of {count} ({', '.join(map(str, paths[:SHOWN]))}{', ...' if len(paths) > SHOWN else ''})"
