"""Reading the HDF5 files and case lists of the public preparations, with every fault named in one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import h5py
import numpy as np

from utils.errors import UserError

ANNOTATED = "annotated"
"""Attribute of a file whose label is two drawn slices in an otherwise empty volume: axis and number of each, (2, 2)."""
SPLITS = Path(__file__).resolve().parents[1] / "data_split"


def read_list(root: Path, dataset: str, name: str, also: str = "") -> list[str]:
    """Case names of the list `name`, from `root` (where it may be called `also`) or else from the repository's data_split.

    A .h5 ending or a trailing comma field is cut off. Raises UserError where there is no list, or nothing in it.
    """
    for path in (root / name, *([root / also] if also else []), SPLITS / dataset / name):
        if path.is_file():
            cases = list_lines(path)
            if not cases:
                raise UserError(f"{path}: the list is empty; write a case name per line")
            return cases
    raise UserError(f"{root / name}: no such list, and none in {SPLITS / dataset}")


def list_lines(path: Path) -> list[str]:
    """The case names in a list's file, none where it is missing; raises UserError for one that is no text."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a readable text file ({error}); a case name per line is expected") from None
    return [line.split(",")[0].strip().removesuffix(".h5") for line in lines if line.strip()]


def check_root(root: Path, dataset: str) -> None:
    if not root.is_dir():
        raise UserError(
            f"{root}: no such folder; put the {dataset} data there, name its place with --root_path, "
            f"or make synthetic data: python code/make_phantom.py --dataset {dataset} --root {root}"
        )


@contextmanager
def opened(path: Path, missing: str = "no such file, though a case list names it") -> Iterator[h5py.File]:
    """The HDF5 file, open for reading; raises UserError where it is missing or damaged, in the block too."""
    if not path.is_file():
        raise UserError(f"{path}: {missing}")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError, KeyError, ValueError) as error:  # what h5py raises for damaged files
        raise UserError(f"{path}: not a readable HDF5 file ({error}); copy or prepare it again") from None


def numbers(path: Path, file: h5py.File, key: str) -> h5py.Dataset:
    """The data set of that name, not yet read; raises UserError where it is missing or holds no numbers."""
    if key not in file:
        raise UserError(f"{path}: no data set of numbers '{key}' in it (found: {', '.join(file) or 'nothing'}); prepare the case again")
    item = file[key]
    if not isinstance(item, h5py.Dataset) or item.dtype.kind not in "biuf":
        raise UserError(f"{path}: '{key}' is no data set of numbers; prepare the case again")
    return item


def read_label(path: Path, file: h5py.File, values: int, key: str = "label") -> np.ndarray:
    """A label (uint8); raises UserError unless it holds whole numbers 0..values-1."""
    label = numbers(path, file, key)[()]
    if label.size and not (label.min() >= 0 and label.max() < values):
        raise UserError(f"{path}: label values {label.min()}..{label.max()}, expected 0..{values - 1}")
    if label.dtype.kind == "f" and (label % 1).any():
        raise UserError(f"{path}: the label holds fractions, expected whole numbers 0..{values - 1}")
    return label.astype(np.uint8, copy=False)


class Layout(Protocol):
    """What of a data set's facts reading a file needs."""

    channels: int
    channel_axis: int
    label_values: int


def read_case(path: Path, layout: Layout, dims: int, label: bool = True) -> tuple[np.ndarray, np.ndarray | None, dict]:
    """Image (C, ...) float32, label (...) uint8 (None and never touched unless asked for), of `dims` axes, and attributes of one file.

    An image of one channel may be stored with or without an axis for it. Raises UserError where the file is missing or damaged, a
    data set is missing, shapes differ, an image is not finite, a label lies outside 0..label_values-1 or is two drawn slices alone.
    """
    with opened(path) as file:
        if label and ANNOTATED in file.attrs:
            raise UserError(
                f"{path}: two slices of the label are drawn, the rest is empty; carry them through the volume with "
                f"code/CoGRNet_register.py and train with code/CoGRNet_train.py, or give a whole label"
            )
        image = numbers(path, file, "image")[()].astype(np.float32, copy=False)
        truth = read_label(path, file, layout.label_values) if label else None
        attributes = dict(file.attrs)
    stored = image.shape
    image = np.moveaxis(image, layout.channel_axis, 0) if image.ndim == dims + 1 else image[None]
    if image.ndim != dims + 1 or not image.size or len(image) != layout.channels:
        channels = f" and {layout.channels} channels (axis {layout.channel_axis})" if layout.channels > 1 else ""
        raise UserError(f"{path}: the image has shape {stored}, expected {dims} dimensions{channels}, none of them empty")
    image = np.ascontiguousarray(image)
    if not np.isfinite(image).all():
        raise UserError(f"{path}: the image holds NaN or infinite values; prepare the case again")
    if truth is not None and truth.shape != image.shape[1:]:
        raise UserError(f"{path}: image {stored} and label {truth.shape} differ in shape")
    return image, truth, attributes


def read_attribute(path: Path, attributes: dict, key: str, shape: tuple[int, ...]) -> np.ndarray | None:
    """The attribute `key` as float64, None where the file has none; raises UserError unless it is finite and of `shape`."""
    value = attributes.get(key)
    if value is None:
        return None
    value = np.asarray(value)
    if value.dtype.kind not in "iuf" or value.shape != shape or not np.isfinite(value).all():
        raise UserError(f"{path}: the attribute {key} is not {'x'.join(map(str, shape))} finite numbers; prepare the case again")
    return value.astype(np.float64)
