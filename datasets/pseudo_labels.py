"""Labels of unlabelled training cases that something else has predicted (`--pseudo_labels`)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dataloaders.dataset_info import DatasetInfo
from dataloaders.hdf5 import numbers, opened, read_attributes, read_label
from dataloaders.plan import Plan
from dataloaders.splits import case_of
from datasets.base import DatasetSpec
from datasets.prepare.own_scans import prepare_label
from datasets.prepare.prepared_files import source_geometry
from scans import reading
from scans.geometry import Geometry, lay_onto, size
from utils.errors import UserError
from utils.files import shown

SCANS = (".nii.gz", ".nii", ".nrrd", ".mha")
"""Endings of label maps on the grid of the original scan."""
ARRAYS = (".npy", ".h5")
"""Endings of labels on the grid of the prepared file, in class numbers."""


@dataclass(frozen=True)
class Grids:
    """The grids of a case: of its scan, and of its prepared volume with the axes as stored.

    `affine`: (4, 4), from indices x, y, z of the prepared volume to millimetres in NIfTI's world.
    """

    source_shape: tuple[int, ...]
    source: Geometry
    shape: tuple[int, ...]
    affine: np.ndarray


@dataclass(frozen=True)
class PseudoLabels:
    """One label file for each case.

    `root`: of the prepared data. `files`: by case. `plan`: of own data. `values`: the class of each
    value in label maps of published data. `say`: gets warnings about the files.
    """

    root: Path
    info: DatasetInfo
    files: Mapping[str, Path]
    plan: Plan | None
    values: Mapping[int, int]
    say: Callable[[str], None]
    _last: dict[str, np.ndarray] = field(default_factory=dict[str, np.ndarray])

    def __call__(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """Return the label (uint8) of a volume or slice whose image has this shape: stored class
        numbers, axes as stored.

        Raises UserError for a file that cannot be read, does not fit its case or holds other
        values.
        """
        case = case_of(self.info, "unlabelled", name)
        label = self._volume(case)
        if case != name:
            label = self._slice(label, name, path=self.files[case])
        if label.shape != shape:
            raise UserError(
                f"{self.files[case]}: the label of {shown(name)} has {size(label.shape)} voxels, "
                f"its image {size(shape)}; replace it by the label of this image"
            )
        return label

    def _volume(self, case: str) -> np.ndarray:
        """The label of a case; the last one is kept, because a case has many slices."""
        if case not in self._last:
            label = self._read(case, self.files[case])
            self._last.clear()
            self._last[case] = label
        return self._last[case]

    @staticmethod
    def _slice(label: np.ndarray, name: str, path: Path) -> np.ndarray:
        """A slice of a label; the names of slices end with their numbers, from 1."""
        number = int(name.rpartition("_slice_")[2])
        if label.ndim != 3 or not 1 <= number <= len(label):
            raise UserError(
                f"{path}: the label has {size(label.shape)} voxels, which have no slice {number} "
                f"as {shown(name)} in the training list; replace it by the label of this scan"
            )
        return label[number - 1]

    def _read(self, case: str, path: Path) -> np.ndarray:
        """The label of a case on the grid of its prepared volume."""
        if path.suffix == ".h5":
            with opened(path) as file:
                return read_label(path, file, values=self.info.label_values)
        if path.suffix == ".npy":
            return _read_array(path, self.info.label_values)
        grids = self._grids(case, path)
        if self.plan is None:
            label = self._label_map(
                path, grids, values=tuple(self.values), source=f"classes of {self.info.name}"
            )
            return self._on_prepared_grid(self._classes(label), grids)
        label = self._label_map(
            path, grids, values=self.plan.label_values, source="declared in dataset.json"
        )
        classes, _ = prepare_label(self.plan, label, grids.source)
        return np.ascontiguousarray(classes.transpose(self.plan.stored))

    def _grids(self, case: str, path: Path) -> Grids:
        prepared = self.info.path(self.root, case)
        with opened(prepared, f"no such file, which has the grid of {path}") as file:
            attributes: dict[str, Any] = read_attributes(file)
            shape = numbers(prepared, file, "image").shape
        if "source_shape" not in attributes or "affine" not in attributes:
            raise UserError(
                f"{path}: {prepared} does not record the grid of its scan; prepare the scans with "
                f"prepare_data.py, or write {case}.npy on the grid of the prepared image"
            )
        return Grids(
            source_shape=tuple(int(side) for side in attributes["source_shape"]),
            source=source_geometry(attributes),
            shape=shape[-3:],
            affine=np.asarray(attributes["affine"]),
        )

    def _label_map(
        self, path: Path, grids: Grids, values: tuple[int, ...], source: str
    ) -> np.ndarray:
        """A label map on the grid of its scan."""
        label = reading.read_label(path, values, source, self._warn)
        array, warning = lay_onto(
            str(path), label.array, label.geometry, grids.source_shape, grids.source
        )
        self._warn(warning)
        return array

    def _warn(self, line: str | None) -> None:
        if line is not None:
            self.say(f"warning: {line}")

    def _classes(self, label: np.ndarray) -> np.ndarray:
        classes = np.zeros(label.shape, np.uint8)
        for value, number in self.values.items():
            classes[label == value] = number
        return classes

    def _on_prepared_grid(self, label: np.ndarray, grids: Grids) -> np.ndarray:
        """A label on the scan's grid on that of the prepared volume: nearest voxels, background
        outside the scan.

        Every preparation turns, crops and scales along axes, so that each axis of one grid is one
        of the other's.
        """
        to_source = np.linalg.inv(grids.source.affine) @ grids.affine
        order: list[int] = []
        for side, letter in zip(grids.shape, self.info.axes, strict=True):
            column = to_source[:3, "xyz".index(letter)]
            axis = int(np.abs(column).argmax())
            positions = column[axis] * np.arange(side) + to_source[axis, 3]
            label = _planes(label, np.rint(positions).astype(int), axis=axis)
            order.append(axis)
        return np.ascontiguousarray(label.transpose(order))


def _planes(label: np.ndarray, positions: np.ndarray, axis: int) -> np.ndarray:
    """The planes of a label at these positions along an axis; background beyond its ends."""
    last = label.shape[axis] - 1
    planes = label.take(positions.clip(0, last), axis)
    outside = (positions < 0) | (positions > last)
    np.moveaxis(planes, axis, 0)[outside] = 0
    return planes


def _read_array(path: Path, values: int) -> np.ndarray:
    """Read an array of class numbers below `values` as uint8."""
    try:
        label = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: not a readable array ({error}); write it again") from None
    if not isinstance(label, np.ndarray) or label.dtype.kind not in "biu":
        raise UserError(f"{path}: not an array of whole numbers; write the class of each voxel")
    if label.size and not 0 <= label.min() <= label.max() < values:
        raise UserError(
            f"{path}: label values {label.min()}..{label.max()}, expected 0..{values - 1}; "
            f"correct it"
        )
    return label.astype(np.uint8, copy=False)


def find_pseudo_labels(
    folder: Path,
    root: Path,
    dataset: DatasetSpec,
    names: Sequence[str],
    say: Callable[[str], None],
) -> PseudoLabels:
    """Find the label file of each unlabelled training case.

    `names`: of the unlabelled volumes or slices. Raises UserError where a case has none or several.
    """
    if not folder.is_dir():
        raise UserError(f"--pseudo_labels {folder}: no such folder; name the folder of the labels")
    info = dataset.info
    cases = dict.fromkeys(case_of(info, "unlabelled", name) for name in names)
    if not cases:
        raise UserError(
            f"--pseudo_labels {folder}: all training cases have labels already; lower --labelnum"
        )
    files: dict[str, Path] = {}
    for case in cases:
        files[case] = _file_of(folder, case)
    plan = None
    if dataset.plan is not None:
        plan = Plan.from_dict(dataset.plan)
    return PseudoLabels(root, info, files, plan, values=_class_of_value(dataset), say=say)


def _file_of(folder: Path, case: str) -> Path:
    paths = [folder / f"{case}{ending}" for ending in (*SCANS, *ARRAYS)]
    present = [path for path in paths if path.is_file()]
    if not present:
        raise UserError(
            f"{paths[0]}: no such file, and no other label of the training case {shown(case)}; "
            f"predict this case too"
        )
    if len(present) > 1:
        names = " and ".join(path.name for path in present)
        raise UserError(f"{folder}: {names} are labels of one case; remove one of them")
    return present[0]


def _class_of_value(dataset: DatasetSpec) -> dict[int, int]:
    """The class of each value in label maps: class numbers, and the values of the download."""
    class_of_value = {number: number for number in range(dataset.info.label_values)}
    if dataset.preparation is not None:
        for number, value in enumerate(dataset.preparation.raw_values):
            class_of_value[value] = number
    return class_of_value
