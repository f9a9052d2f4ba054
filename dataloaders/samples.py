"""Training data that makes its own batches: drawn, transformed and stacked, on the host or on the
device of the images.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from dataloaders.augment import Augmentation, HeldVoxel
from dataloaders.dataset_info import DatasetInfo, NamedFile
from dataloaders.foreground import Choice, Foreground
from dataloaders.transforms import Array
from dataloaders.two_stream import Draw

Kept = tuple[Array, tuple[Array, ...]]
LabelOf = Callable[[str, tuple[int, ...]], np.ndarray]
"""The label (uint8) of a training case by its name and the shape of its image: stored class
numbers, axes as stored. UserError where the label has another shape.
"""
FOR_FOREGROUND = 1
"""Last number of the seed that foreground sampling draws from."""


class Samples(Dataset):
    """Cases of which the first `labelled` have labels. A subclass fills `kept` or overrides `case`.

    The item of a `Draw` is {"image": (C, ...) float32, and for labelled cases "label": (...)
    uint8}. Labelled cases go through the first augmentation, the others through the second. A label
    of two channels (2, ...) becomes "label" and "distance". `kept`: all cases, where they are kept
    in memory. `foreground`: draws a share of the labelled samples by class, None for none.
    `labelled_classes`: the foreground classes that the labels have. `files`: of all cases, in their
    order. `truly_labelled`: the number of cases whose own files have labels; the other cases of
    `labelled` have pseudo labels.
    """

    augment: tuple[Augmentation, Augmentation]
    labelled: int
    unlabelled: int
    truly_labelled: int
    files: Sequence[NamedFile]
    kept: list[Kept] | None = None
    foreground: Foreground | None = None
    labelled_classes: frozenset[int] = frozenset()

    @property
    def labelled_files(self) -> list[NamedFile]:
        """The files that are read of the truly labelled cases."""
        return list(self.files[: self.truly_labelled])

    def case(self, index: int) -> Kept:
        """The image of a case and its labels: none, one, or one for each half of the batch."""
        return self._in_memory()[index]

    def _in_memory(self) -> list[Kept]:
        if self.kept is None:
            raise TypeError(f"{type(self).__name__} keeps no cases in memory")
        return self.kept

    def place(self, device: torch.device) -> None:
        """Move the kept cases to a device, where batches are made from then on; they are
        bit-identical to those made on the host.
        """
        kept = self._in_memory()
        for index, (image, labels) in enumerate(kept):
            moved_labels = tuple(_moved(label, device) for label in labels)
            kept[index] = (_moved(image, device), moved_labels)

    def __getitem__(self, draw: Draw) -> dict[str, Tensor]:
        batch = self.__getitems__([draw])
        return {name: stacked[0] for name, stacked in batch.items()}

    def __getitems__(self, draws: Sequence[Draw]) -> dict[str, Tensor]:
        """Make a batch; the labelled samples come first in `draws`.

        "image" and, with intensity transforms, "plain" are of all samples, "label" of the labelled
        ones.
        """
        items = [self._augmented(draw) for draw in draws]
        batch: dict[str, Tensor] = {}
        for name in items[0]:
            arrays = [item[name] for item in items if name in item]
            batch[name] = _stacked(arrays)
        return batch

    def _augmented(self, draw: Draw) -> dict[str, Array]:
        choice = Choice(draw.case)
        held = None
        if self.foreground is not None and draw.case < self.labelled:
            rng = np.random.default_rng((*draw.seed, FOR_FOREGROUND))
            choice = self.foreground.choose(draw.case, rng)
            if choice.voxel is not None:
                held = HeldVoxel(choice.voxel, rng)
        image, labels = self.case(choice.case)
        label = None
        if labels:
            label = labels[draw.half % len(labels)]
        for_labelled, for_unlabelled = self.augment
        augmentation = for_labelled if draw.case < self.labelled else for_unlabelled
        views = augmentation(np.random.default_rng(draw.seed), image, label, held)
        if label is not None and label.ndim == image.ndim:
            views["label"], views["distance"] = views["label"]
        return views


class ReadSamples(Protocol):
    """Reads the training data of a run: a subclass of `Samples`, perhaps with some arguments fixed.

    `names`: of all cases. The first `labelled` of them have labels. `pseudo_label_of`: labels of
    the other cases. `say` gets the warnings about the contents.
    """

    def __call__(
        self,
        info: DatasetInfo,
        root: Path,
        names: Sequence[str],
        labelled: int,
        augment: tuple[Augmentation, Augmentation],
        *,
        say: Callable[[str], None],
        pseudo_label_of: LabelOf | None = None,
    ) -> Samples:
        """Return the data. Raises UserError where files do not fit the data set."""
        ...


def as_it_is(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a batch unchanged, as the `collate_fn` of a DataLoader; a worker process moves it to
    shared memory first.

    A fault here reaches the main process. If torch moved the batch, one that does not fit would be
    lost, and the main process would wait for it for ever.
    """
    if get_worker_info() is not None:
        for tensor in batch.values():
            tensor.share_memory_()
    return batch


def _stacked(arrays: Sequence[Array]) -> Tensor:
    """Arrays or tensors, or views of them, copied once."""
    tensors = [array for array in arrays if isinstance(array, Tensor)]
    if tensors:
        return torch.stack(tensors)
    return torch.from_numpy(np.stack([np.asarray(array) for array in arrays]))


def _moved(array: Array, device: torch.device) -> Tensor:
    return torch.as_tensor(array).to(device)
