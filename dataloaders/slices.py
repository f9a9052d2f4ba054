"""Slices to train 2-D networks on, and which of them are labelled."""

from collections.abc import Callable, Sequence
from pathlib import Path

from dataloaders.augment import Augmentation
from dataloaders.contents import Contents
from dataloaders.dataset_info import DatasetInfo, NamedFile
from dataloaders.foreground import SlicesByClass
from dataloaders.hdf5 import check_root, read_case
from dataloaders.samples import LabelOf, Samples
from utils.errors import UserError
from utils.messages import message
from utils.progress import progress


def before_underscore(name: str) -> str:
    """Return the part of a name before its first underscore."""
    return name.split("_")[0]


def first_patients(
    root: Path,
    info: DatasetInfo,
    labelnum: int,
    patient: Callable[[str], str] = before_underscore,
) -> tuple[list[str], int]:
    """Names of the training slices, and how many at the head of the list belong to its first
    `labelnum` patients.

    On ACDC 3 patients have 68 slices and 7 patients 136. `patient` gives the patient of a slice
    from its name. Raises UserError where `labelnum` is not between 1 and the number of patients in
    the list.
    """
    slices = info.read_list(root, info.train_list)
    patients = list(dict.fromkeys(patient(name) for name in slices))
    if not 1 <= labelnum <= len(patients):
        unit = "cases"
        if patient is before_underscore:
            unit = "patients"
        raise UserError(
            f"--labelnum {labelnum}: the training list has {len(patients)} {unit}, choose 1 to "
            f"{len(patients)}"
        )
    chosen = set(patients[:labelnum])
    labelled = 0
    while labelled < len(slices) and patient(slices[labelled]) in chosen:
        labelled += 1
    return [*slices, *info.never_labelled(root)], labelled


class Slices(Samples):
    """Training slices in memory: the first `labelled` with labels, the others (`unlabelled`)
    without. Labels of the others are never read.

    `pseudo_label_of`: labels of the others, which then count as labelled.
    `foreground_sampling`: share of the labelled samples that are drawn by class
    (`dataloaders.foreground`). `say` gets the warnings about their contents.
    """

    def __init__(
        self,
        info: DatasetInfo,
        root: Path,
        names: Sequence[str],
        labelled: int,
        augment: tuple[Augmentation, Augmentation],
        say: Callable[[str], None] = message,
        foreground_sampling: float = 0.0,
        pseudo_label_of: LabelOf | None = None,
    ) -> None:
        check_root(root, info.name)
        self.augment = augment
        self.labelled = labelled
        self.truly_labelled = labelled
        if pseudo_label_of is not None:
            self.labelled = len(names)
        self.unlabelled = len(names) - self.labelled
        self.kept = []
        by_class = SlicesByClass(foreground_sampling)
        pattern = info.slice_file or info.file
        self.files = [NamedFile(name, root / pattern.format(name)) for name in names]
        contents = Contents("training slices", whole=False, say=say)
        with progress(
            self.files, desc="reading slices", unit="file", leave=False, delay=0.5
        ) as bar:
            for index, (name, path) in enumerate(bar):
                image, label, _ = read_case(path, info, dims=2, label=index < labelled)
                if label is None and pseudo_label_of is not None:
                    label = pseudo_label_of(name, image.shape[1:])
                labels = ()
                if label is not None:
                    labels = (label,)
                    by_class.add(label)
                contents.look(path, image, labels)
                self.kept.append((image, labels))
        contents.report()
        self.labelled_classes = frozenset(contents.classes)
        if foreground_sampling:
            self.foreground = by_class

    def __len__(self) -> int:
        return len(self.files)
