"""Training data whose batches are put together here: drawn, transformed and stacked, on the host or where the images lie."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from dataloaders.augment import Augmentation
from dataloaders.transforms import Array
from dataloaders.two_stream import Draw

Kept = tuple[Array, tuple[Array, ...]]


class Samples(Dataset):
    """Cases of which the first `labelled` have labels. A data set gives `case`; the rest follows.

    Item `Draw(index, seed)`: {"image": (C, ...) float32, and for labelled cases "label": (...) uint8}, augmented by the first augmentation
    if labelled, else by the second. `kept`: all cases, where they are kept in memory.
    """

    augment: tuple[Augmentation, Augmentation]
    labelled: int
    kept: list[Kept] | None = None

    def case(self, index: int) -> Kept:
        """The image of a case and its labels: none, or one per half of the batch."""
        return self.kept[index]

    def place(self, device: torch.device) -> None:
        """Move the kept cases to a device, where batches are made from then on, of the same draws and bit for bit the same."""

        def moved(array: Array) -> Tensor:
            return torch.as_tensor(array).to(device)

        for index, (image, labels) in enumerate(self.kept):
            self.kept[index] = moved(image), tuple(map(moved, labels))

    def __getitem__(self, draw: Draw) -> dict[str, Tensor]:
        return {key: stacked[0] for key, stacked in self.__getitems__([draw]).items()}

    def __getitems__(self, draws: Sequence[Draw]) -> dict[str, Tensor]:
        """A batch whose labelled samples come first: "image" and perhaps "plain" of all of them, "label" of the labelled ones."""
        items = []
        for draw in draws:
            image, labels = self.case(draw.index)
            label = labels[draw.half % len(labels)] if labels else None
            items.append(
                self.augment[draw.index >= self.labelled](
                    np.random.default_rng(draw.seed), image, label
                )
            )
        return {name: _stacked([item[name] for item in items if name in item]) for name in items[0]}


def as_it_is(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a DataLoader has left to do with a batch: a process of its own puts it into shared memory here, where a fault reaches the main
    process. Left to torch, a batch for which there is no room is lost, and the main process waits for it."""
    if get_worker_info() is not None:
        for tensor in batch.values():
            tensor.share_memory_()
    return batch


def _stacked(arrays: Sequence[Array]) -> Tensor:
    """Arrays, or views of them, copied once."""
    return (
        torch.stack(arrays) if isinstance(arrays[0], Tensor) else torch.from_numpy(np.stack(arrays))
    )
