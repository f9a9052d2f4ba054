"""Patches of volumes to train 3-D networks on, with whole or with coarse labels, and which volumes are labelled."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from dataloaders.augment import Augmentation
from dataloaders.cases import read_volume, turned
from dataloaders.coarse import coarse_path, read_coarse, training_label
from dataloaders.contents import Contents
from dataloaders.facts import DatasetFacts
from dataloaders.hdf5 import check_root
from dataloaders.plan import FILE as PLAN
from dataloaders.samples import Samples
from utils.errors import UserError
from utils.messages import message
from utils.progress import progress

CacheKind = Literal["ram", "device", "none"]


def first_cases(root: Path, facts: DatasetFacts, labelnum: int) -> tuple[list[str], int]:
    """Names of the training cases and how many of them, the first ones, are labelled."""
    names = facts.read_list(root, facts.train_list)
    if not 1 <= labelnum <= len(names):
        raise UserError(
            f"--labelnum {labelnum}: the training list has {len(names)} cases, choose 1 to {len(names)}"
        )
    return [*names, *facts.never_labelled(root)], labelnum


def percent_of_cases(root: Path, facts: DatasetFacts, labelnum: int) -> tuple[list[str], int]:
    """As `first_cases`; `labelnum` is a percentage here, as in Pancreas' published file names: 20 stands for the 12 of train_lab.txt.

    Other percentages take so many of train_lab.txt and train_unlab.txt together, in that order.
    """
    labelled = facts.read_list(root, facts.train_list)
    names = [*labelled, *facts.never_labelled(root)]
    if labelnum == 20:
        return names, len(labelled)
    count = len(names) * labelnum // 100
    if not 1 <= count <= len(names):
        raise UserError(
            f"--labelnum {labelnum}: percent of the {len(names)} training cases, choose {-(-100 // len(names))} to 100"
        )
    return names, count


class VolumePatches(Samples):
    """Patches of training volumes: the first `labelled` with labels, the others (`unlabelled`) without, their labels never opened.

    `cache` "none" reads files at every draw, and the labelled ones once before that, to look at them; all others every file once. `say` is
    told what it takes.
    """

    def __init__(
        self,
        facts: DatasetFacts,
        root: Path,
        names: Sequence[str],
        labelled: int,
        augment: tuple[Augmentation, Augmentation],
        say: Callable[[str], None] = message,
        cache: CacheKind = "ram",
    ):
        check_root(root, facts.name)
        self.facts, self.root, self.augment = facts, root, augment
        self.labelled, self.unlabelled = labelled, len(names) - labelled
        self.cases = [(facts.path(root, name), name) for name in names]
        keep = cache != "none"
        contents, kept = Contents("training volumes" if keep else "labelled volumes", True, say), []
        looked_at = range(
            len(names) if keep else labelled
        )  # an unlabelled one is read for every draw, a wrong label spoils the run
        with progress(
            looked_at, desc="reading volumes", unit="file", leave=False, delay=0.5
        ) as bar:
            for index in bar:
                case = self._read(index)
                contents.look(self.cases[index][0], *case)
                if keep:
                    kept.append(case)
        contents.tell()
        if not keep:
            say(
                f"{facts.name}: {len(names)} training volumes, every draw reads its file (--cache none)"
            )
            return
        self.kept = kept
        gib = sum(array.nbytes for image, labels in self.kept for array in (image, *labels)) / 2**30
        say(
            f"{facts.name}: {len(names)} training volumes, {gib:.2f} GiB, kept in memory (--cache none would read anew)"
        )

    @property
    def files(self) -> list[tuple[str, Path]]:
        """Name and path of each file that is read, those of labelled cases first."""
        return [(name, path) for path, name in self.cases]

    def _read(self, index: int) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """The image of a case and its labels: none, or one per half of the batch."""
        case = read_volume(self.facts, *self.cases[index], label=index < self.labelled)
        return case.image, () if case.label is None else (case.label,)

    def __len__(self) -> int:
        return len(self.cases)

    def case(self, index: int) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        return self.kept[index] if self.kept else self._read(index)


class CoarsePatches(VolumePatches):
    """As `VolumePatches`, but labelled cases have the coarse labels of CoGRNet: half a of a batch reads the first plane's with the
    second plane's annotated slice written over it, half b the other way round. Dense labels are never opened."""

    def _read(self, index: int) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        path, name = self.cases[index]
        case = read_volume(self.facts, path, name, label=False)
        if index >= self.labelled:
            return case.image, ()
        coarse = [read_coarse(coarse_path(path, plane), self._remedy()) for plane in (0, 1)]
        drawn = [plane.annotation(self._remedy(redo=True)) for plane in coarse]
        labels = (
            training_label(coarse[0].label, drawn[1]),
            training_label(coarse[1].label, drawn[0]),
        )
        labels = tuple(
            turned(self.facts, label) for label in labels
        )  # they hold task labels already: 0 and 1
        for plane, label in enumerate(labels):
            if label.shape != case.image.shape[1:]:
                raise UserError(
                    f"{coarse_path(path, plane)}: a label of another shape than {path}; {self._remedy(redo=True)}"
                )
        return case.image, labels

    @property
    def files(self) -> list[tuple[str, Path]]:
        labels = [
            (path.name, path)
            for case, _ in self.cases[: self.labelled]
            for path in (coarse_path(case, 0), coarse_path(case, 1))
        ]
        return super().files[: self.labelled] + labels + super().files[self.labelled :]

    def _remedy(self, redo: bool = False) -> str:
        """The command that makes coarse labels."""
        dataset = (
            "" if (self.root / PLAN).is_file() else f"--dataset {self.facts.name} "
        )  # own data have a plan instead of a name
        command = f"python code/CoGRNet_register.py {dataset}--root_path {self.root} --labelnum {self.labelled}"
        return f"make it: {command}{' --redo' if redo else ''}"
