"""What the preparations of published data sets share: options, lists, and labels on the grids of
their images.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np

from dataloaders.dataset_info import DatasetInfo
from dataloaders.splits import WHOLE
from datasets.prepare.crop import Box, checked_box
from datasets.prepare.grid_labels import read_label_on
from datasets.prepare.lists import published_lists, write_list
from datasets.prepare.prepared_files import Output, RawCase
from scans.geometry import Geometry
from scans.reading import Scan
from scans.voxel_file import Warn
from utils.errors import UserError
from utils.files import files_below

Crop = Literal["published", "none"]
Size = tuple[int, int, int]
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class PublishedPreparation(ABC):
    """A preparation whose cases are listed in data_split/<data set>.

    The fields of a subclass are its options: those flags of prepare_data.py that the data set has.
    """

    info: ClassVar[DatasetInfo]
    # A changed version makes prepare_data.py report files of the earlier one.
    version: ClassVar[int] = 1
    # Values of the downloaded labels, the background first, where they are not class numbers.
    raw_values: ClassVar[tuple[int, ...]] = ()
    # Pattern of prepared files of another variant, which must not be in the same folder.
    other_files: ClassVar[str] = ""

    @property
    def settings(self) -> dict[str, Any]:
        """Everything except the raw scans that decides what is in the prepared files."""
        options = asdict(self)
        options.pop("box", None)  # set only for predictions, which are no files
        return {"dataset": self.info.name, "version": self.version} | options

    @property
    def image_steps(self) -> str:
        """What turns a scan into the input of a network, in words; empty if it is not recorded."""
        return ""

    @property
    def class_values(self) -> tuple[int, ...]:
        """The value of each class in raw labels, the background first."""
        return self.raw_values or tuple(range(self.info.classes))

    @abstractmethod
    def find(self, source: Path) -> list[RawCase]:
        """Find every case below the folder."""

    @abstractmethod
    def prepare(self, case: RawCase, warn: Warn) -> Iterator[Output]:
        """Read a case and yield its files. Raises UserError for faults that the user can fix."""

    def case_of_line(self, line: str) -> str:
        """The name of the case that a line of a published list belongs to."""
        return line

    def file_of_line(self, line: str) -> str:
        """The prepared file, relative to the root, that a line of a published list belongs to."""
        return self.info.file.format(self.case_of_line(line))

    def written_line(self, line: str) -> str:
        """The line that the list of the prepared data has for a line of a published list."""
        return line

    def last_file(self, case: RawCase) -> str:
        """The file, relative to the root, that is written after all others of the case."""
        return self.info.file.format(case.name)

    def has_slices(self, case: RawCase) -> bool:
        """Whether the files of the case include its slices, which are trained on."""
        return False

    def prepare_picture(self, path: Path, image: np.ndarray) -> np.ndarray:
        """Return a 2-D picture (channels, rows, columns) as it is."""
        return image

    def prepared_shape(self, shape: Sequence[int], geometry: Geometry) -> tuple[int, ...]:
        """The shape of the prepared volume, up to the order of axes."""
        return tuple(shape)

    @classmethod
    def variant_warning(
        cls, path: Path, settings: Mapping[str, Any], low: float, high: float
    ) -> str | None:
        """A warning for a prepared file (values from `low` to `high`) of a variant that training
        does not expect.
        """
        return None

    def read_label(self, path: Path, scan: Scan, warn: Warn) -> np.ndarray:
        """Read a label onto the grid of its image; its values are those of the download."""
        values = self.raw_values or tuple(range(self.info.label_values))
        return read_label_on(path, scan, values=values, source="as downloaded", warn=warn)

    def splits(self, cases: Sequence[RawCase]) -> dict[str, str]:
        """The split of each case in a published list; without lists all are training cases."""
        lists = published_lists(self.info.name)
        if not lists:
            return dict.fromkeys((case.name for case in cases), "train")
        splits: dict[str, str] = {}
        for file, lines in lists.items():
            name = Path(file).stem
            split = "train"
            if name in WHOLE:
                split = name
            for line in lines:
                splits[self.case_of_line(line)] = split
        return splits

    def write_lists(self, root: Path) -> list[str]:
        """Write each published list without the lines whose file is missing, and return a warning
        for each such list.

        A complete list is equal to the published one, byte for byte.
        """
        lists = published_lists(self.info.name)
        if not lists:
            names = f"{self.info.train_list} and {self.info.test_list}"
            return [f"{self.info.name} has no published lists; write {names} in {root}"]
        warnings = []
        for name, lines in lists.items():
            prepared = [line for line in lines if (root / self.file_of_line(line)).is_file()]
            if len(prepared) < len(lines):
                warnings.append(
                    f"{name} names {len(prepared)} of {len(lines)} published entries: "
                    "the others are not prepared"
                )
            write_list(root / name, [self.written_line(line) for line in prepared])
        return warnings


@dataclass(frozen=True)
class CroppedPreparation(PublishedPreparation, ABC):
    """A preparation whose published crop follows the label.

    `box` replaces the crop where `crop` is none.
    """

    crop: Crop = "published"
    box: Box | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """Everything except the raw scans that decides what is in the prepared files."""
        settings = super().settings
        settings["crop"] = settings.pop("crop")  # the last entry, as in existing files
        return settings

    def prepared_shape(self, shape: Sequence[int], geometry: Geometry) -> tuple[int, ...]:
        """The shape of the box, or of the scan where there is none."""
        if self.box is None:
            return tuple(shape)
        start, stop = self.box
        return tuple(np.subtract(stop, start).tolist())

    def chosen_box(self, scan: Scan) -> Box:
        """The part of the scan that is kept without the published crop.

        Raises UserError for a box outside the scan.
        """
        return checked_box(self.box, str(scan.path), shape=scan.shape)

    def check_label_exists(self, case: RawCase) -> None:
        """Raise UserError where the crop follows the label and the scan has none."""
        if self.crop == "published" and case.label is None:
            raise UserError(
                f"{case.images[0]}: has no label, which the published crop follows; "
                "use --crop none to prepare it without one"
            )


def make_preparation(
    kind: type[PublishedPreparation],
    crop: Crop,
    variant: str | None,
    size: Size | None,
    box: Box | None = None,
) -> PublishedPreparation:
    """Make the preparation of a data set; `variant`, `size` and `box` are None where they are not
    chosen.

    Raises UserError for an option that the data set does not have, and for a value that it cannot
    have.
    """
    known = {field.name for field in fields(kind)}
    options: dict[str, Any] = {}
    for name, value in (("variant", variant), ("size", size), ("box", box)):
        if value is None:
            continue
        if name not in known:
            raise UserError(
                f"--{name}: the preparation of {kind.info.name} has no such option; remove it"
            )
        options[name] = value
    if "crop" in known:  # without a published crop both values mean the same
        options["crop"] = crop
    return kind(**options)


def add_file(files: dict[Key, Path], key: Key, path: Path) -> None:
    """Add the path of a case.

    Raises UserError where another path has the key, unless that is a folder with this one.
    """
    other = files.setdefault(key, path)
    if other != path and other not in path.parents:
        raise UserError(f"{path}: belongs to the same case as {other}; remove one of them")


def cases_in_folders(source: Path, image: str, label: str, endings: str) -> list[RawCase]:
    """Find cases that are folders, each with the files `image` and `label` plus the same ending.

    `endings`: a regular expression. A missing label is no fault here.
    """
    images: dict[str, Path] = {}
    for path in files_below(source):
        if re.fullmatch(re.escape(image) + endings, path.name, re.DOTALL):
            add_file(images, path.parent.name, path)
    cases = []
    for name, path in images.items():
        label_path = path.with_name(path.name.replace(image, label))
        cases.append(RawCase(name, images=(path,), label=existing(label_path)))
    return cases


def existing(path: Path) -> Path | None:
    """The path, or None where there is no such file."""
    if path.is_file():
        return path
    return None
