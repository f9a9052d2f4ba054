"""Patches of volumes to train on: LA (2018 Atrial Segmentation Challenge, in UA-MT's preparation), NIH Pancreas, KiTS19, LiTS."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dataloaders.augment import VolumeAugmentation
from dataloaders.cases import read_volume, turned
from dataloaders.coarse import Annotation, coarse_annotation, coarse_path, training_label
from dataloaders.facts import DatasetFacts
from dataloaders.hdf5 import check_root, image_shape, read_case
from dataloaders.two_stream import Draw
from utils.errors import UserError
from utils.progress import progress

CacheKind = Literal["ram", "none"]


def first_cases(root: Path, facts: DatasetFacts, labelnum: int) -> tuple[list[str], int]:
    """Names of the training cases and how many of them, the first ones, are labelled."""
    names = facts.read_list(root, facts.train_list)
    if not 1 <= labelnum <= len(names):
        raise UserError(f"--labelnum {labelnum}: the training list has {len(names)} cases, choose 1 to {len(names)}")
    return names, labelnum


def pancreas_cases(root: Path, facts: DatasetFacts, labelnum: int) -> tuple[list[str], int]:
    """As `first_cases`; `labelnum` is a percentage here, as in the published file names: 20 stands for the 12 of train_lab.txt.

    Other percentages take so many of train_lab.txt and train_unlab.txt together, in that order.
    """
    labelled = facts.read_list(root, facts.train_list)
    names = [*labelled, *facts.read_list(root, facts.unlabelled_list)]
    if labelnum == 20:
        return names, len(labelled)
    count = len(names) * labelnum // 100
    if not 1 <= count <= len(names):
        raise UserError(f"--labelnum {labelnum}: percent of the {len(names)} training cases, choose {-(-100 // len(names))} to 100")
    return names, count


class VolumePatches(Dataset):
    """Patches of training volumes: the first `labelled` with labels, the others (`unlabelled`) without, their labels never opened.

    Item `Draw(index, seed)`: {"image": (1, X, Y, Z) float32, and for labelled cases "label": (X, Y, Z) int64}, augmented.
    `cache` "ram" reads every file once, "none" at every draw; `say` is told what that takes before it is done.
    """

    def __init__(
        self,
        facts: DatasetFacts,
        root: Path,
        names: Sequence[str],
        labelled: int,
        augment: tuple[VolumeAugmentation, VolumeAugmentation],
        cache: CacheKind = "ram",
        say: Callable[[str], None] = print,
    ):
        check_root(root, facts.name)
        self.facts, self.root, self.augment = facts, root, augment
        self.labelled, self.unlabelled = labelled, len(names) - labelled
        self.cases = [(facts.path(root, name), name) for name in names]
        voxels = [int(np.prod(image_shape(path))) for path, _ in self.cases]
        gib = (4 * sum(voxels) + sum(voxels[:labelled])) / 2**30
        reading = "every draw reads its file (--cache none)" if cache == "none" else "kept in memory (--cache none would read anew)"
        say(f"{facts.name}: {len(names)} training volumes, {gib:.2f} GiB, {reading}")
        self._kept = None
        if cache == "ram":
            with progress(range(len(names)), desc="reading volumes", unit="file", leave=False, delay=0.5) as bar:
                self._kept = [self._read(index) for index in bar]

    def _read(self, index: int) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """The image of a case and its labels: none, or one a half of the batch."""
        case = read_volume(self.facts, *self.cases[index], label=index < self.labelled)
        return case.image, () if case.label is None else (case.label,)

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, draw: Draw) -> dict[str, Tensor]:
        image, labels = self._kept[draw.index] if self._kept else self._read(draw.index)
        augment = self.augment[draw.index >= self.labelled]
        transform = augment.draw(np.random.default_rng(draw.seed), image.shape)
        item = {"image": torch.from_numpy(transform(image))[None]}
        if labels:
            item["label"] = torch.from_numpy(transform(labels[draw.half % len(labels)]).astype(np.int64))
        return item


class CoarsePatches(VolumePatches):
    """As `VolumePatches`, but labelled cases have the coarse labels of CoGRNet: half a of a batch reads the first plane's with the
    second plane's annotated slice written over it, half b the other way round. Dense labels are never opened."""

    def _read(self, index: int) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        path, name = self.cases[index]
        case = read_volume(self.facts, path, name, label=False)
        if index >= self.labelled:
            return case.image, ()
        coarse, drawn = zip(*(self._read_coarse(coarse_path(path, plane)) for plane in (0, 1)), strict=True)
        labels = training_label(coarse[0], drawn[1]), training_label(coarse[1], drawn[0])
        labels = tuple(turned(self.facts, label) for label in labels)  # they hold task labels already: 0 and 1
        for plane, label in enumerate(labels):
            if label.shape != case.image.shape:
                raise UserError(f"{coarse_path(path, plane)}: a label of another shape than {path}; {self._remedy(redo=True)}")
        return case.image, labels

    def _read_coarse(self, path: Path) -> tuple[np.ndarray, Annotation]:
        if not path.is_file():
            raise UserError(f"{path}: no such coarse label; {self._remedy()}")
        _, label, attributes = read_case(path, 2, 3)
        try:
            return label, coarse_annotation(label, attributes)
        except (KeyError, IndexError, TypeError, ValueError):
            raise UserError(f"{path}: does not say which slice was annotated; {self._remedy(redo=True)}") from None

    def _remedy(self, redo: bool = False) -> str:
        """The command that makes coarse labels."""
        command = f"python code/CoGRNet_register.py --dataset {self.facts.name} --root_path {self.root} --labelnum {self.labelled}"
        return f"make it: {command}{' --redo' if redo else ''}"
