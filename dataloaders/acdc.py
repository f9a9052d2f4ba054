"""ACDC (Bernard et al., TMI 2018) in the HDF5 preparation of SSL4MIS: slices to train on, volumes to validate and test on."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dataloaders.augment import draw_slice_transform
from dataloaders.facts import ACDC
from dataloaders.hdf5 import check_root, read_attribute, read_case, read_list
from dataloaders.two_stream import Draw
from utils.case import Case
from utils.errors import UserError
from utils.progress import progress
from utils.zoom import zoom_nearest


def labelled_slices(slices: list[str], labelnum: int) -> int:
    """How many slices at the head of the list belong to its first `labelnum` patients (3 patients: 68, 7: 136).

    Raises UserError where `labelnum` is not between 1 and the number of patients in the list.
    """
    patients = list(dict.fromkeys(name.split("_")[0] for name in slices))
    if not 1 <= labelnum <= len(patients):
        raise UserError(f"--labelnum {labelnum}: the training list has {len(patients)} patients, choose 1 to {len(patients)}")
    chosen = set(patients[:labelnum])
    return next((i for i, name in enumerate(slices) if name.split("_")[0] not in chosen), len(slices))


class ACDCSlices(Dataset):
    """Training slices in memory: the first `labelled` with labels, the others (`unlabelled`) without, their labels never read.

    Item `Draw(index, seed)`: {"image": (1, h, w) float32, and for labelled slices "label": (h, w) int64}, augmented, h x w = `patch_size`.
    """

    def __init__(self, root: Path, labelnum: int, patch_size: tuple[int, int], unlabelled: bool = True):
        check_root(root, ACDC.name)
        names = read_list(root, ACDC.name, "train_slices.list")
        self.patch_size = patch_size
        self.labelled = labelled_slices(names, labelnum)
        self.unlabelled = len(names) - self.labelled if unlabelled else 0
        self.images: list[np.ndarray] = []
        self.labels: list[np.ndarray] = []
        with progress(names[: self.labelled + self.unlabelled], desc="reading slices", unit="file", leave=False, delay=0.5) as bar:
            for index, name in enumerate(bar):
                is_labelled = index < self.labelled
                image, label, _ = read_case(root / "data" / "slices" / f"{name}.h5", ACDC.classes, 2, label=is_labelled)
                self.images.append(image)
                if is_labelled:
                    self.labels.append(label)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, draw: Draw) -> dict[str, Tensor]:
        transform = draw_slice_transform(np.random.default_rng(draw.seed))
        item = {"image": torch.from_numpy(zoom_nearest(transform(self.images[draw.index]), self.patch_size))[None]}
        if draw.index < self.labelled:
            item["label"] = torch.from_numpy(zoom_nearest(transform(self.labels[draw.index]), self.patch_size).astype(np.int64))
        return item


def collate(items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Stack a batch whose labelled samples come first: "image" of all of them, "label" of the labelled ones."""
    return {
        "image": torch.stack([item["image"] for item in items]),
        "label": torch.stack([item["label"] for item in items if "label" in item]),
    }


def read_volumes(root: Path, split: str) -> list[Case]:
    """The volumes of `val.list` or `test.list`, in list order."""
    check_root(root, ACDC.name)
    cases = []
    with progress(read_list(root, ACDC.name, f"{split}.list"), desc=f"reading {split} volumes", unit="file", leave=False, delay=0.5) as bar:
        for name in bar:
            path = root / "data" / f"{name}.h5"
            image, label, attributes = read_case(path, ACDC.classes, 3)
            spacing = read_attribute(path, attributes, "spacing_mm", (3,))
            if spacing is not None and not (spacing > 0).all():
                raise UserError(f"{path}: spacing_mm is {spacing}, expected three positive numbers; prepare the case again")
            affine = read_attribute(path, attributes, "affine", (4, 4))
            cases.append(Case(name, image, label, None if spacing is None else tuple(spacing.tolist()), affine))
    return cases
