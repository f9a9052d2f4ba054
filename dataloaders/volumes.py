"""Patches of volumes to train 3-D networks on, with whole or with coarse labels, and which volumes
are labelled.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from dataloaders.augment import Augmentation
from dataloaders.cases import read_stored, turned
from dataloaders.coarse import (
    Annotation,
    Coarse,
    coarse_path,
    read_coarse,
    slice_distance,
    training_label,
)
from dataloaders.contents import Contents
from dataloaders.dataset_info import DatasetInfo, NamedFile
from dataloaders.foreground import VoxelsByClass
from dataloaders.hdf5 import check_root
from dataloaders.plan import FILE as PLAN
from dataloaders.samples import Kept, LabelOf, Samples
from utils.errors import UserError
from utils.messages import message
from utils.progress import progress

CacheKind = Literal["ram", "device", "none"]


def first_cases(root: Path, info: DatasetInfo, labelnum: int) -> tuple[list[str], int]:
    """Names of the training cases and how many of them, the first ones, are labelled."""
    names = info.read_list(root, info.train_list)
    if not 1 <= labelnum <= len(names):
        raise UserError(
            f"--labelnum {labelnum}: the training list has {len(names)} cases, choose 1 to "
            f"{len(names)}"
        )
    return [*names, *info.never_labelled(root)], labelnum


def percent_of_cases(root: Path, info: DatasetInfo, labelnum: int) -> tuple[list[str], int]:
    """As `first_cases`, but `labelnum` is a percentage, as in the published file names of Pancreas.

    20 stands for the 12 cases of train_lab.txt. Other percentages are of train_lab.txt and
    train_unlab.txt together, in that order.
    """
    labelled = info.read_list(root, info.train_list)
    names = [*labelled, *info.never_labelled(root)]
    if labelnum == 20:
        return names, len(labelled)
    count = len(names) * labelnum // 100
    if not 1 <= count <= len(names):
        least = math.ceil(100 / len(names))
        raise UserError(
            f"--labelnum {labelnum}: percent of the {len(names)} training cases, choose {least} "
            "to 100"
        )
    return names, count


class VolumePatches(Samples):
    """Patches of training volumes: the first `labelled` with labels, the others (`unlabelled`)
    without. Labels of the others are never opened.

    `pseudo_label_of`: labels of the others, which then count as labelled. `cache` "none" reads a
    file at every draw, and those of labelled cases also once at the start, to check them; with the
    other values every file is read once. `foreground_sampling`: share of the labelled samples that
    are drawn by class (`dataloaders.foreground`). `say` gets the warnings about the contents, and
    how much memory is used.
    """

    def __init__(
        self,
        info: DatasetInfo,
        root: Path,
        names: Sequence[str],
        labelled: int,
        augment: tuple[Augmentation, Augmentation],
        say: Callable[[str], None] = message,
        cache: CacheKind = "ram",
        foreground_sampling: float = 0.0,
        pseudo_label_of: LabelOf | None = None,
    ) -> None:
        check_root(root, info.name)
        self.info = info
        self.root = root
        self.augment = augment
        self.labelled = labelled
        self.truly_labelled = labelled
        self.pseudo_label_of = pseudo_label_of
        if pseudo_label_of is not None:
            self.labelled = len(names)
        self.unlabelled = len(names) - self.labelled
        self.files = [NamedFile(name, info.path(root, name)) for name in names]
        if foreground_sampling:
            self.foreground = VoxelsByClass(foreground_sampling)
        if cache == "none":
            self._check_labelled(say)
            say(
                f"{info.name}: {len(names)} training volumes, every draw reads its file (--cache "
                "none)"
            )
            return
        self.kept = self._read_all(say)
        gib = sum(map(_byte_count, self.kept)) / 2**30
        say(
            f"{info.name}: {len(names)} training volumes, {gib:.2f} GiB, kept in memory (--cache "
            "none reads them at every draw)"
        )

    def _check_labelled(self, say: Callable[[str], None]) -> None:
        """Read the labelled cases once: a wrong label spoils the run.

        A fault of the others is found when they are drawn.
        """
        contents = Contents("labelled volumes", whole=True, say=say)
        cases = range(self.labelled)
        with progress(cases, desc="reading volumes", unit="file", leave=False, delay=0.5) as bar:
            for index in bar:
                self._read_and_look(index, contents)
        contents.report()
        self.labelled_classes = frozenset(contents.classes)

    def _read_and_look(
        self, index: int, contents: Contents
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """Read a case, with its contents checked and its classes indexed."""
        image, labels = self._read(index)
        contents.look(self.files[index].path, image, labels=labels)
        if labels and self.foreground is not None:
            self.foreground.add(labels[0])
        return image, labels

    def _read_all(self, say: Callable[[str], None]) -> list[Kept]:
        contents = Contents("training volumes", whole=True, say=say)
        volumes: list[Kept] = []
        cases = range(len(self.files))
        with progress(cases, desc="reading volumes", unit="file", leave=False, delay=0.5) as bar:
            for index in bar:
                volumes.append(self._read_and_look(index, contents))
        contents.report()
        self.labelled_classes = frozenset(contents.classes)
        return volumes

    def _read(self, index: int) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """Read the image of a case and its labels: none, one, or one for each half of the batch."""
        name, path = self.files[index]
        volume = read_stored(self.info, path, label=index < self.truly_labelled)
        if volume.label is not None:
            return volume.image, (volume.label,)
        if self.pseudo_label_of is None:
            return volume.image, ()
        shape = volume.image.shape[1:]
        if self.info.swapped:
            shape = shape[::-1]
        label = self.pseudo_label_of(name, shape)
        return volume.image, (turned(self.info, self.info.task_label(label)),)

    def __len__(self) -> int:
        return len(self.files)

    def case(self, index: int) -> Kept:
        """Return the volume of a case, read now if it is not kept in memory."""
        if self.kept:
            return self.kept[index]
        return self._read(index)


class CoarsePatches(VolumePatches):
    """As `VolumePatches`, but labelled cases have the two coarse labels of CoGRNet. Dense labels
    are never opened.

    Half a of a batch gets the first plane's coarse label with the second plane's annotated slice
    written over it. Half b gets the second plane's coarse label with the first plane's annotated
    slice. `distances`: labels are those of each plane before both were fused, and have a second
    channel, `coarse.slice_distance`.
    """

    def __init__(
        self,
        info: DatasetInfo,
        root: Path,
        names: Sequence[str],
        labelled: int,
        augment: tuple[Augmentation, Augmentation],
        say: Callable[[str], None] = message,
        cache: CacheKind = "ram",
        *,
        distances: bool = False,
        pseudo_label_of: LabelOf | None = None,
    ) -> None:
        if pseudo_label_of is not None:
            raise UserError(
                "--pseudo_labels: not with coarse labels; train on dense ones with --labels dense"
            )
        self.distances = distances
        super().__init__(
            info, root, names=names, labelled=labelled, augment=augment, say=say, cache=cache
        )

    def _read(self, index: int) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        path = self.files[index].path
        image = read_stored(self.info, path, label=False).image
        if index >= self.labelled:
            return image, ()
        first = read_coarse(coarse_path(path, 0), self._remedy())
        second = read_coarse(coarse_path(path, 1), self._remedy())
        first_drawn = first.annotation(self._remedy(redo=True))
        second_drawn = second.annotation(self._remedy(redo=True))
        # coarse labels hold task labels already: 0 and 1
        labels = (
            turned(self.info, self._label(first, first_drawn, other=second_drawn)),
            turned(self.info, self._label(second, second_drawn, other=first_drawn)),
        )
        for plane, label in enumerate(labels):
            if label.shape[-image.ndim + 1 :] != image.shape[1:]:
                raise UserError(
                    f"{coarse_path(path, plane)}: the label has another shape than {path}; "
                    f"{self._remedy(redo=True)}"
                )
        return image, labels

    def _label(self, coarse: Coarse, drawn: Annotation, other: Annotation) -> np.ndarray:
        """The label of one plane, axes as stored, with its distances where the method uses them."""
        if not self.distances:
            return training_label(coarse.label, other)
        label = training_label(coarse.unfused, other)
        return np.stack([label, slice_distance(label.shape, drawn, other)])

    @property
    def labelled_files(self) -> list[NamedFile]:
        """The files that are read of labelled cases: first all images, then all coarse labels."""
        images = super().labelled_files
        labels: list[NamedFile] = []
        for image in images:
            for plane in (0, 1):
                path = coarse_path(image.path, plane)
                labels.append(NamedFile(path.name, path))
        return images + labels

    def _remedy(self, redo: bool = False) -> str:
        """The command that makes coarse labels."""
        words = ["python", "code/CoGRNet_register.py"]
        if not (self.root / PLAN).is_file():  # own data have a plan instead of a name
            words += ["--dataset", self.info.name]
        words += ["--root_path", str(self.root), "--labelnum", str(self.labelled)]
        if redo:
            words.append("--redo")
        return f"make it: {' '.join(words)}"


def _byte_count(case: Kept) -> int:
    image, labels = case
    return image.nbytes + sum(label.nbytes for label in labels)
