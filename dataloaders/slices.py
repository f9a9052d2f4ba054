"""Slices to train 2-D networks on, and which of them are labelled."""

from collections.abc import Callable, Sequence
from pathlib import Path

from dataloaders.augment import Augmentation
from dataloaders.contents import Contents
from dataloaders.facts import DatasetFacts
from dataloaders.hdf5 import check_root, read_case
from dataloaders.samples import Samples
from utils.errors import UserError
from utils.messages import message
from utils.progress import progress


def before_underscore(name: str) -> str:
    return name.split("_")[0]


def first_patients(
    root: Path,
    facts: DatasetFacts,
    labelnum: int,
    patient: Callable[[str], str] = before_underscore,
) -> tuple[list[str], int]:
    """Names of the training slices, and how many at the head of the list belong to its first `labelnum` patients (ACDC: 3 patients 68,
    7 patients 136). A slice's `patient` is what its name holds before its first underscore.

    Raises UserError where `labelnum` is not between 1 and the number of patients in the list.
    """
    slices = facts.read_list(root, facts.train_list)
    patients = list(dict.fromkeys(patient(name) for name in slices))
    if not 1 <= labelnum <= len(patients):
        raise UserError(
            f"--labelnum {labelnum}: the training list has {len(patients)} patients, choose 1 to {len(patients)}"
        )
    chosen = set(patients[:labelnum])
    labelled = next(
        (i for i, name in enumerate(slices) if patient(name) not in chosen), len(slices)
    )
    return [*slices, *facts.never_labelled(root)], labelled


class Slices(Samples):
    """Training slices in memory: the first `labelled` with labels, the others (`unlabelled`) without, their labels never read.

    `files`: name and path of each, the labelled ones first; `say` is told what is strange.
    """

    def __init__(
        self,
        facts: DatasetFacts,
        root: Path,
        names: Sequence[str],
        labelled: int,
        augment: tuple[Augmentation, Augmentation],
        say: Callable[[str], None] = message,
    ):
        check_root(root, facts.name)
        self.augment, self.labelled, self.unlabelled = augment, labelled, len(names) - labelled
        self.kept = []
        self.files = [
            (name, root / (facts.slice_file or facts.file).format(name)) for name in names
        ]
        contents = Contents("training slices", False, say)
        with progress(
            self.files, desc="reading slices", unit="file", leave=False, delay=0.5
        ) as bar:
            for index, (_, path) in enumerate(bar):
                image, label, _ = read_case(path, facts, 2, label=index < labelled)
                labels = () if label is None else (label,)
                contents.look(path, image, labels)
                self.kept.append((image, labels))
        contents.tell()

    def __len__(self) -> int:
        return len(self.kept)
