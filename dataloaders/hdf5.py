"""Reading the HDF5 files and case lists of the public preparations, with every fault named in one line."""

from pathlib import Path

import h5py
import numpy as np

from utils.errors import UserError

SPLITS = Path(__file__).resolve().parents[1] / "data_split"


def read_list(root: Path, dataset: str, name: str) -> list[str]:
    """Case names of the list `name`, from `root` or else from the repository's data_split.

    A .h5 ending or a trailing comma field is cut off. Raises UserError where there is no list, or nothing in it.
    """
    for path in (root / name, SPLITS / dataset / name):
        if path.is_file():
            cases = [line.split(",")[0].strip().removesuffix(".h5") for line in path.read_text().splitlines() if line.strip()]
            if not cases:
                raise UserError(f"{path}: the list is empty")
            return cases
    raise UserError(f"{root / name}: no such list, and none in {SPLITS / dataset}")


def check_root(root: Path, dataset: str) -> None:
    if not root.is_dir():
        raise UserError(
            f"{root}: no such folder; put the {dataset} data there, name its place with --root_path, "
            f"or make synthetic data: python code/make_phantom.py --root {root}"
        )


def read_case(path: Path, classes: int, dims: int, label: bool = True) -> tuple[np.ndarray, np.ndarray | None, dict]:
    """Image (float32), label (uint8, None and never touched unless asked for) and attributes of one HDF5 file.

    Raises UserError where the file is missing or damaged, a data set is missing, shapes differ, an image is not finite
    or a label lies outside 0..classes-1.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file, though a case list names it")
    try:
        with h5py.File(path, "r") as file:
            missing = [key for key in ("image", *(["label"] if label else [])) if key not in file]
            if missing:
                raise UserError(f"{path}: no data set '{missing[0]}' in it (found: {', '.join(file) or 'nothing'})")
            image = file["image"][()].astype(np.float32, copy=False)
            truth = file["label"][()] if label else None
            attributes = dict(file.attrs)
    except OSError as error:
        raise UserError(f"{path}: not a readable HDF5 file ({error}); copy or prepare it again") from None
    if image.ndim != dims:
        raise UserError(f"{path}: the image has shape {image.shape}, expected {dims} dimensions")
    if not np.isfinite(image).all():
        raise UserError(f"{path}: the image holds NaN or infinite values; prepare the case again")
    if truth is not None:
        if truth.shape != image.shape:
            raise UserError(f"{path}: image {image.shape} and label {truth.shape} differ in shape")
        if truth.size and not (truth.min() >= 0 and truth.max() < classes):
            raise UserError(f"{path}: label values {truth.min()}..{truth.max()}, expected 0..{classes - 1}")
        truth = truth.astype(np.uint8, copy=False)
    return image, truth, attributes
