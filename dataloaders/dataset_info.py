"""The description of a data set that is the same for every method: classes, files, lists, axes."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dataloaders.hdf5 import find_list, list_lines, read_list


class NamedFile(NamedTuple):
    """A file of a data set. `name`: of its case or slice in a list, or the file's own."""

    name: str
    path: Path


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """The description of one data set; `class_names` start with the background.

    `file`: path of a case's HDF5 file below the root; `slice_file`: path of the slices that a 2-D
    data set trains on, if it is another; `flat_file`: another path of a case, as CoGRNet has LA.
    `channel_axis`: of a stored image with several `channels`. `unlabelled_list`: set where
    `train_list` names only the labelled cases. `list_suffix`: CoGRNet's name for the data set,
    whose list is train_<suffix>.txt. `axes`: order of a stored volume's axes; in memory 3-D data
    sets are always x, y, z and volumes of 2-D ones slices first. `zscore`: whether images are
    z-scored when they are read. `file_classes`: how many class numbers the labels may have
    (0: as many as class names); `foreground`: which of them are the object where there is one
    (else each is its own class). `planes`: the two planes of CoGRNet's annotation, each an axis of
    the stored volume and a slice: the published number, None for the middle of the axis, or
    "object" for the middle of the object.
    """

    name: str
    class_names: tuple[str, ...]
    channels: int = 1
    channel_axis: int = 0
    dims: int
    file: str
    slice_file: str | None = None
    flat_file: str | None = None
    train_list: str
    test_list: str
    unlabelled_list: str | None = None
    list_suffix: str | None = None
    axes: str = "zyx"
    zscore: bool = False
    file_classes: int = 0
    foreground: tuple[int, ...] = ()
    planes: tuple[tuple[int, int | str | None], ...] = ()

    @property
    def classes(self) -> int:
        """Number of classes, background included."""
        return len(self.class_names)

    @property
    def label_values(self) -> int:
        """How many class numbers a stored label may hold."""
        return self.file_classes or self.classes

    def path(self, root: Path, case: str) -> Path:
        """The file of a case below `root`, which may be missing."""
        path = root / self.file.format(case)
        if self.flat_file and not path.is_file():
            flat = root / self.flat_file.format(case)
            if flat.is_file():
                return flat
        return path

    def read_list(self, root: Path, name: str) -> list[str]:
        """The case names of one of the data set's lists; see `dataloaders.hdf5.read_list`."""
        return read_list(root, self.name, name=name, also=self._other_name(name))

    def _other_name(self, name: str) -> str:
        if not self.list_suffix:
            return ""
        return f"{Path(name).stem}_{self.list_suffix}.txt"

    def held_out(self, root: Path, split: str) -> list[str]:
        """The case names of the split `val` or `test`; none if it has no list or an empty one."""
        name = self.list_name(split)
        path = find_list(root, self.name, name=name, also=self._other_name(name))
        if path is None:
            return []
        return list_lines(path)

    def never_labelled(self, root: Path) -> list[str]:
        """The training cases that `unlabelled_list` names in addition to those of `train_list`."""
        if not self.unlabelled_list:
            return []
        return self.read_list(root, self.unlabelled_list)

    def plain(self) -> dict[str, Any]:
        """The description as plain types, for a checkpoint."""
        plain: dict[str, Any] = {}
        for key, value in asdict(self).items():
            if key == "planes":
                continue
            if isinstance(value, tuple):
                value = list(value)
            plain[key] = value
        return plain

    @classmethod
    def from_plain(cls, content: Mapping[str, Any]) -> "DatasetInfo":
        """The inverse of `plain`, for checkpoints; entries that this version does not know are
        skipped.
        """
        known = {field.name for field in fields(cls)}
        values: dict[str, Any] = {}
        for key, value in content.items():
            if key not in known:
                continue
            if isinstance(value, list):
                value = tuple(value)
            values[key] = value
        return cls(**values)

    @property
    def swapped(self) -> bool:
        """Whether the axes of a stored volume are reversed when it is read."""
        return self.dims == 3 and self.axes == "zyx"

    def list_name(self, split: str) -> str:
        """File name of the list `test` or `val`; the published protocols have a validation list
        only for ACDC.
        """
        if split == "test":
            return self.test_list
        return f"val{Path(self.test_list).suffix}"

    def task_label(self, label: np.ndarray) -> np.ndarray:
        """Convert a stored label to the class numbers of `class_names` (uint8)."""
        if not self.foreground:
            return label
        return np.isin(label, self.foreground).astype(np.uint8)
