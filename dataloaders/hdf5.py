"""Reading the HDF5 files and case lists of the public preparations, with every fault named in one line."""

from pathlib import Path

import h5py
import numpy as np

from utils.errors import UserError

SPLITS = Path(__file__).resolve().parents[1] / "data_split"


def read_list(root: Path, dataset: str, name: str, also: str = "") -> list[str]:
    """Case names of the list `name`, from `root` (where it may be called `also`) or else from the repository's data_split.

    A .h5 ending or a trailing comma field is cut off. Raises UserError where there is no list, or nothing in it.
    """
    for path in (root / name, *([root / also] if also else []), SPLITS / dataset / name):
        if path.is_file():
            try:
                lines = path.read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise UserError(f"{path}: not a readable text file ({error}); a case name a line is expected") from None
            cases = [line.split(",")[0].strip().removesuffix(".h5") for line in lines if line.strip()]
            if not cases:
                raise UserError(f"{path}: the list is empty")
            return cases
    raise UserError(f"{root / name}: no such list, and none in {SPLITS / dataset}")


def check_root(root: Path, dataset: str) -> None:
    if not root.is_dir():
        raise UserError(
            f"{root}: no such folder; put the {dataset} data there, name its place with --root_path, "
            f"or make synthetic data: python code/make_phantom.py --dataset {dataset} --root {root}"
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
            image = _read_numbers(path, file, "image").astype(np.float32, copy=False)
            truth = _read_numbers(path, file, "label") if label else None
            attributes = dict(file.attrs)
    except (OSError, RuntimeError, KeyError, ValueError) as error:  # what h5py raises for damaged files
        raise UserError(f"{path}: not a readable HDF5 file ({error}); copy or prepare it again") from None
    if image.ndim != dims or not image.size:
        raise UserError(f"{path}: the image has shape {image.shape}, expected {dims} dimensions, none of them empty")
    if not np.isfinite(image).all():
        raise UserError(f"{path}: the image holds NaN or infinite values; prepare the case again")
    if truth is not None:
        if truth.shape != image.shape:
            raise UserError(f"{path}: image {image.shape} and label {truth.shape} differ in shape")
        if not (truth.min() >= 0 and truth.max() < classes):
            raise UserError(f"{path}: label values {truth.min()}..{truth.max()}, expected 0..{classes - 1}")
        if truth.dtype.kind == "f" and (truth % 1).any():
            raise UserError(f"{path}: the label holds fractions, expected whole numbers 0..{classes - 1}")
        truth = truth.astype(np.uint8, copy=False)
    return image, truth, attributes


def image_shape(path: Path) -> tuple[int, ...]:
    """Shape of a file's image, without reading it; raises UserError as `read_case` does."""
    if not path.is_file():
        raise UserError(f"{path}: no such file, though a case list names it")
    try:
        with h5py.File(path, "r") as file:
            if "image" in file:
                return file["image"].shape
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise UserError(f"{path}: not a readable HDF5 file ({error}); copy or prepare it again") from None
    raise UserError(f"{path}: no data set 'image' in it")


def read_attribute(path: Path, attributes: dict, key: str, shape: tuple[int, ...]) -> np.ndarray | None:
    """The attribute `key` as float64, None where the file has none; raises UserError unless it is finite and of `shape`."""
    value = attributes.get(key)
    if value is None:
        return None
    value = np.asarray(value)
    if value.dtype.kind not in "iuf" or value.shape != shape or not np.isfinite(value).all():
        raise UserError(f"{path}: the attribute {key} is not {'x'.join(map(str, shape))} finite numbers; prepare the case again")
    return value.astype(np.float64)


def _read_numbers(path: Path, file: h5py.File, key: str) -> np.ndarray:
    item = file[key]
    if not isinstance(item, h5py.Dataset) or item.dtype.kind not in "biuf":
        raise UserError(f"{path}: '{key}' is no data set of numbers; prepare the case again")
    return item[()]
