"""Reading and writing the HDF5 files and case lists of prepared data; every fault is reported in
one line.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np

from dataloaders.plan import FILE as OWN_PLAN
from utils.errors import UserError
from utils.files import name_fault, replacing, shown

ANNOTATED = "annotated"
"""Attribute of a file whose label is two drawn slices in an otherwise empty volume: axis and number
of each, (2, 2).
"""
CONTENT = "content_sha256"
"""Attribute of every file that `write_hdf5` writes: the hash of its data sets and of its other
attributes.
"""
SPLITS = Path(__file__).resolve().parents[1] / "data_split"
ENDING = ".h5"
SMALL = 64 * 2**20
"""Bytes that a data set may always need in memory."""
DENSEST = 2000
"""Bytes in memory that a byte of a file may stand for; gzip reaches 1030 at most."""


def read_list(root: Path, dataset: str, name: str, also: str = "") -> list[str]:
    """Read the case names of the list `name`, from `root` (where its name may be `also`) or else
    from the repository's data_split.

    See `list_lines` for which part of a line is the name. Raises UserError where the list is
    missing or empty, or a name is not plain.
    """
    path = find_list(root, dataset, name=name, also=also)
    if path is None:
        raise UserError(
            f"{root / name}: no such list, and none in {SPLITS / dataset}; create it with one case "
            "name per line"
        )
    if cases := list_lines(path):
        return cases
    remedy = "write a case name per line"
    if Path(name).stem == "val":
        remedy = (
            "no case was held out for validation. Train with --select last (no validation: the "
            f"last network is the result), or {remedy} (prepare_data.py takes them from "
            "splits_final.json)"
        )
    elif Path(name).stem == "test":
        remedy = f"there is no case to test on. Add labelled test cases, or {remedy}"
    raise UserError(f"{path}: the list is empty; {remedy}")


def find_list(root: Path, dataset: str, name: str, also: str = "") -> Path | None:
    """Path of the list that `read_list` reads, which may be a folder or a broken link; None where
    there is none.
    """
    paths = [root / name]
    if also:
        paths.append(root / also)
    paths.append(SPLITS / dataset / name)
    for path in paths:
        if os.path.lexists(path):
            return path
    return None


def list_lines(path: Path) -> list[str]:
    """Read the case names in a list's file; none where it is missing.

    A line that ends in .h5 is a name with that ending, even if it has commas. In any other line the
    name ends at the first comma, as in the public lists. `list_line` is the inverse. Raises
    UserError for a file that is not text, and for a name that would lead out of the data's folder
    or that no file can have.
    """
    if not os.path.lexists(path):
        return []
    try:
        if not path.is_file():
            raise OSError("it is a folder or a broken link, for example")
        text = path.read_text(encoding="utf-8-sig")  # Windows' editors put a mark before it
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: not a readable text file ({error}); a case name per line is expected"
        ) from None
    lines = [line.strip(" \t\r") for line in text.split("\n")]
    names = {number: _name_in(line) for number, line in enumerate(lines, 1) if line}
    for number, name in names.items():
        if fault := name_fault(name):
            raise UserError(
                f"{path}: line {number}: the case name {shown(name)} {fault}; write a plain name, "
                "as its file has it"
            )
    return list(names.values())


def _name_in(line: str) -> str:
    if line.endswith(ENDING):
        return line.removesuffix(ENDING)
    return line.split(",")[0].strip(" \t").removesuffix(ENDING)


def list_line(name: str) -> str:
    """The line of a case list that `list_lines` reads as this name."""
    if "," in name or name.endswith(ENDING):
        return f"{name}{ENDING}"
    return name


def check_root(root: Path, dataset: str) -> None:
    """Raise UserError if the folder of the data is missing, or if a public data set is expected and
    the folder holds a user's own data.
    """
    if not root.is_dir():
        raise UserError(
            f"{root}: no such folder; put the {dataset} data there, name its place with "
            f"--root_path, or make synthetic data: python code/make_phantom.py --dataset {dataset} "
            f"--root {root}"
        )
    is_public = (SPLITS / dataset).is_dir()  # own data never have the name of a public data set
    if is_public and (root / OWN_PLAN).is_file():
        raise UserError(
            f"{root}: holds own data ({OWN_PLAN}), not {dataset}; for own data, use code/train.py "
            "or code/test.py without --dataset, and with a checkpoint that was trained on them; "
            f"for {dataset}, correct --root_path"
        )


@contextmanager
def opened(
    path: Path, missing: str = "no such file, though a case list names it"
) -> Iterator[h5py.File]:
    """Open the HDF5 file for reading; raises UserError where it is missing or damaged, also for
    faults within the block.
    """
    if not path.is_file():
        raise UserError(f"{path}: {missing}")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (
        OSError,
        RuntimeError,
        KeyError,
        ValueError,
        MemoryError,
    ) as error:  # what h5py raises for damaged files
        reason = " ".join(str(error).split())
        raise UserError(
            f"{path}: not a readable HDF5 file ({reason}); copy or prepare it again"
        ) from None


def numbers(path: Path, file: h5py.File, key: str) -> h5py.Dataset:
    """The data set of that name, not yet read.

    Raises UserError where it is missing, is not numeric, is stored in another file, or claims more
    memory than its file can fill.
    """
    if isinstance(file.get(key, getlink=True), h5py.ExternalLink):
        raise UserError(
            f"{path}: '{key}' leads to another file; prepare the case again, with its numbers "
            "inside"
        )
    if key not in file:
        names = ", ".join(map(shown, file)) or "nothing"
        raise UserError(
            f"{path}: no data set of numbers '{key}' in it (found: {names}); prepare the case again"
        )
    item = file[key]
    if not isinstance(item, h5py.Dataset) or _kind(item) not in "biuf" or item.shape is None:
        raise UserError(f"{path}: '{key}' is not a data set of numbers; prepare the case again")
    if item.external or item.is_virtual or item.file.filename != file.filename:
        raise UserError(
            f"{path}: '{key}' leads to another file; prepare the case again, with its numbers "
            "inside"
        )
    claimed = item.dtype.itemsize * int(np.prod(item.shape, dtype=object))
    if claimed > max(SMALL, DENSEST * path.stat().st_size):
        raise UserError(
            f"{path}: '{key}' claims {claimed / 2**30:.0f} GiB, more than the file can hold; copy "
            "or prepare it again"
        )
    chunk = item.dtype.itemsize * int(np.prod(item.chunks or (), dtype=object))
    if chunk > max(SMALL, claimed):  # HDF5 reads a chunk as a whole
        raise UserError(
            f"{path}: '{key}' is stored in chunks of {chunk / 2**20:.0f} MiB, more than its "
            f"{claimed / 2**20:.0f} MiB; prepare it again"
        )
    return item


def _kind(item: h5py.Dataset) -> str:
    """numpy's letter for the kind of its numbers, "-" where numpy has no type for them."""
    try:
        return item.dtype.kind
    except TypeError:
        return "-"


def read_attributes(file: h5py.File) -> dict[str, Any]:
    """Read a file's attributes; those whose type numpy does not know are skipped."""
    attributes: dict[str, Any] = {}
    for key in file.attrs:
        try:
            attributes[key] = file.attrs[key]
        except TypeError:
            continue
    return attributes


def write_hdf5(
    path: Path, data: Mapping[str, np.ndarray], attributes: Mapping[str, Any], **options: Any
) -> str:
    """Write data sets, each with the `options` of h5py's create_dataset, and attributes; whole or
    not at all.

    The attribute `CONTENT` is added. Returns the SHA-256 of the file. Raises OSError where it
    cannot be written. The file is made in memory first, because HDF5 itself ends the process when
    it closes a file on a full disk.
    """
    with h5py.File("memory", "w", driver="core", backing_store=False) as file:
        for key, array in data.items():
            file.create_dataset(key, data=array, **options)
        file.attrs.update(attributes)
        file.attrs[CONTENT] = content_hash(data, read_attributes(file))
        file.flush()
        image = file.id.get_file_image()
    with replacing(path) as unfinished:
        unfinished.write_bytes(image)
    return hashlib.sha256(image).hexdigest()


def content_hash(data: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> str:
    """SHA-256 of the names, types, shapes and values of data sets and attributes, without the
    attribute `CONTENT` itself.
    """
    digest = hashlib.sha256()
    for key in sorted(data):
        _add_to_hash(digest, f"data {key}", data[key])
    for key in sorted(attributes):
        if key != CONTENT:
            _add_to_hash(digest, f"attribute {key}", attributes[key])
    return digest.hexdigest()


def _add_to_hash(digest: Any, name: str, value: Any) -> None:
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        array = np.frombuffer(str(value).encode("utf-8", "surrogatepass"), np.uint8)
    digest.update(f"{name} {array.dtype.str} {array.shape} ".encode())
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))


def content_fault(path: Path) -> str:
    """Why the file is not as `write_hdf5` wrote it, one line; empty if it is.

    The whole file is read. In older files, which lack the attribute `CONTENT`, nothing more can be
    checked.
    """
    data: dict[str, np.ndarray] = {}
    try:
        with opened(path) as file:
            for key in map(str, file):
                data[key] = numbers(path, file, key)[()]
            attributes = read_attributes(file)
    except UserError as error:
        return str(error)
    if CONTENT in attributes and attributes[CONTENT] != content_hash(data, attributes):
        return f"{path}: its content has changed since it was written"
    return ""


def read_label(path: Path, file: h5py.File, values: int, key: str = "label") -> np.ndarray:
    """Read a label (uint8); raises UserError unless its values are whole numbers 0..values-1."""
    label = numbers(path, file, key)[()]
    if label.size and not (label.min() >= 0 and label.max() < values):
        raise UserError(
            f"{path}: label values {label.min()}..{label.max()}, expected 0..{values - 1}; correct "
            "the label and prepare the case again"
        )
    if label.dtype.kind == "f" and (label % 1).any():
        raise UserError(
            f"{path}: the label holds fractions, expected whole numbers 0..{values - 1}; correct "
            "it and prepare the case again"
        )
    return label.astype(np.uint8, copy=False)


class Layout(Protocol):
    """The part of a data set's description that is needed to read a file."""

    @property
    def channels(self) -> int:
        """Number of modalities of an image."""
        ...

    @property
    def channel_axis(self) -> int:
        """Axis of a stored image with several channels."""
        ...

    @property
    def label_values(self) -> int:
        """How many class numbers a stored label may hold."""
        ...


def read_case(
    path: Path, layout: Layout, dims: int, label: bool = True
) -> tuple[np.ndarray, np.ndarray | None, dict[str, Any]]:
    """Read one file: image (C, ...) float32 and label (...) uint8 with `dims` spatial axes, and the
    file's attributes.

    Without `label` the label is not opened, and None is returned for it. An image of one channel
    may be stored with or without an axis for it. Raises UserError where the file is missing or
    damaged, a data set is missing, shapes differ, the image is not finite, or the label has values
    outside 0..label_values-1 or has only two annotated slices.
    """
    with opened(path) as file:
        if label and ANNOTATED in file.attrs:
            raise UserError(
                f"{path}: only two slices of the label are annotated; propagate them with "
                "code/CoGRNet_register.py and train with code/CoGRNet_train.py, or provide a "
                "complete label"
            )
        image = numbers(path, file, "image")[()].astype(np.float32, copy=False)
        truth = None
        if label:
            truth = read_label(path, file, values=layout.label_values)
        attributes = read_attributes(file)
    stored = image.shape
    image = _channels_first(image, layout, dims=dims)
    if image.ndim != dims + 1 or not image.size or len(image) != layout.channels:
        channels = ""
        if layout.channels > 1:
            channels = f" and {layout.channels} channels (axis {layout.channel_axis})"
        raise UserError(
            f"{path}: the image has shape {stored}, expected {dims} dimensions{channels}, none of "
            "them empty; prepare the case again"
        )
    image = np.ascontiguousarray(image)
    if not np.isfinite(image).all():
        raise UserError(f"{path}: the image holds NaN or infinite values; prepare the case again")
    if truth is not None and truth.shape != image.shape[1:]:
        raise UserError(
            f"{path}: image {stored} and label {truth.shape} differ in shape; prepare the case "
            "again"
        )
    return image, truth, attributes


def _channels_first(image: np.ndarray, layout: Layout, dims: int) -> np.ndarray:
    """A stored image with its axis of channels first, which is added where the image has only
    `dims` axes.
    """
    if image.ndim == dims + 1:
        return np.moveaxis(image, layout.channel_axis, 0)
    return image[None]


def read_attribute(
    path: Path, attributes: dict[str, Any], key: str, shape: tuple[int, ...]
) -> np.ndarray | None:
    """The attribute `key` as float64, None where the file lacks it; raises UserError unless it is
    finite and of `shape`.
    """
    value = attributes.get(key)
    if value is None:
        return None
    value = np.asarray(value)
    if value.dtype.kind not in "iuf" or value.shape != shape or not np.isfinite(value).all():
        size = "x".join(map(str, shape))
        raise UserError(
            f"{path}: the attribute {key} is not {size} finite numbers; prepare the case again"
        )
    return value.astype(np.float64)
