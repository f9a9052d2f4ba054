"""ACDC (Bernard et al., TMI 2018) in the HDF5 preparation of SSL4MIS: slices to train on."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dataloaders.augment import draw_slice_transform
from dataloaders.facts import ACDC
from dataloaders.hdf5 import check_root, read_case, read_list
from dataloaders.two_stream import Draw
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
        names = read_list(root, ACDC.name, ACDC.train_list)
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
