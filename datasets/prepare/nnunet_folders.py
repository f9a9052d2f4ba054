"""The folders of nnU-Net's raw layout: which files are whose, and what is wrong with the names of
the others.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets.prepare.prepared_files import RawCase
from scans.formats import files_of
from utils.errors import UserError
from utils.names import and_more, folded, nearest

SCAN_ENDINGS = (
    ".nii.gz",
    ".nii",
    ".seg.nrrd",
    ".nrrd",
    ".nhdr",
    ".mha",
    ".mhd",
    ".hdr",
    ".img",
    ".img.gz",
)
# endings of headers whose voxels may lie in other files
DETACHED = (".mhd", ".mha", ".nhdr", ".nrrd", ".hdr", ".hdr.gz", ".img", ".img.gz")
DICOM_ENDINGS = (".dcm", ".dicom", ".ima")
# what readers and annotation programs append to the name of a case
MARKS = re.compile(r"[-_ .](\d{4}|seg|segmentation|label|labels|mask|gt)$", re.IGNORECASE)
LOOKED_AT = 20  # files of a folder that are opened to see whether they are DICOM
SHOWN = 3


@dataclass(frozen=True)
class Folder:
    """What one folder of images and its labels hold.

    `errors` stop the preparation, `warnings` do not. `unread` are files that are named like scans
    of another format, `unmatched` labels without image: where the number of cases is not the
    expected one, they may be the reason.
    """

    cases: tuple[RawCase, ...] = ()
    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    unmatched: tuple[str, ...] = ()


def read_folder(source: Path, part: str, ending: str, channels: int) -> Folder:
    """Find the cases of `images<part>` and `labels<part>`; `part`: Tr, Un or Ts.

    Every case of Tr needs a label, of Un none is looked for. UserError where the folder of the
    training images is missing or has no case.
    """
    place = source / f"images{part}"
    if not place.is_dir():
        return _no_folder(source, part)
    return _FolderReader(source, part, ending, channels).read()


def _no_folder(source: Path, part: str) -> Folder:
    place = source / f"images{part}"
    other = _same_spelling(place)
    if other:
        fault = f"{place}: no such folder, but {other} is there; rename it to {place.name}"
    else:
        fault = (
            f"{place}: no such folder; docs/data.md shows nnU-Net's raw layout, "
            "which own data come in"
        )
    if part == "Tr":
        raise UserError(fault)
    if other:
        return Folder(errors=(fault,))
    return Folder()


def _same_spelling(path: Path) -> str:
    """The name of a neighbour that differs from the path's by upper and lower case only; empty
    where there is none.
    """
    for other in sorted(path.parent.iterdir()):
        if folded(other.name) == folded(path.name):
            return other.name
    return ""


class _FolderReader:
    def __init__(self, source: Path, part: str, ending: str, channels: int) -> None:
        self.images = source / f"images{part}"
        self.labels = None if part == "Un" else source / f"labels{part}"
        self.part = part
        self.ending = ending
        self.channels = channels
        self.errors: list[str] = []
        self.warnings: list[str] = []
        self.unread: list[str] = []
        self.unmatched: list[str] = []
        self.files: dict[str, dict[int, Path]] = {}

    def read(self) -> Folder:
        entries = [path for path in sorted(self.images.iterdir()) if path.name[0] != "."]
        voxels = self._voxel_entries(entries)
        for path in entries:
            if path.name not in voxels:
                self._sort(path)
        if self.part == "Tr" and not self.files:
            raise UserError(self._no_case())
        self._look_for_labels_folder()
        labels = self._label_files()
        spare = [path for path in labels if self._case_of_label(path) not in self.files]
        known = set(labels)
        cases = [self._case(name, numbers, known, spare) for name, numbers in self.files.items()]
        self._report_spare(spare)
        return Folder(
            cases=tuple(cases),
            errors=tuple(self.errors),
            warnings=tuple(self.warnings),
            unread=tuple(self.unread),
            unmatched=tuple(self.unmatched),
        )

    def _voxel_entries(self, entries: Sequence[Path]) -> set[str]:
        """The files and folders among `entries` that hold the voxels of headers, by name; they are
        no scans of their own.
        """
        headers = [path for path in entries if path.name.endswith(self.ending)]
        if self.ending not in DETACHED or len(headers) == len(entries):
            return set()
        names: set[str] = set()
        for header in headers:
            try:
                files = files_of(header)
            except UserError:
                continue  # reported when its case is read
            for file in files:
                if file not in headers and file.is_relative_to(self.images):
                    names.add(file.relative_to(self.images).parts[0])
        return names

    def _sort(self, path: Path) -> None:
        """Take one file of the images' folder as a channel of a case, or say why not."""
        ending = self.ending
        if path.is_dir():
            self._sort_folder(path)
        elif path.name.endswith(ending):
            found = re.fullmatch(rf"(.+)_([0-9]{{4}}){re.escape(ending)}", path.name, re.DOTALL)
            if found:
                self.files.setdefault(found[1], {})[int(found[2])] = path
                return
            better = path.name.removesuffix(ending) + "_0000" + ending
            self._error(path, f"the name ends in no channel number; rename it, such as {better}")
        elif path.name.lower().endswith(ending.lower()):
            there = path.name[-len(ending) :]
            better = path.name[: -len(ending)] + ending
            self._error(
                path,
                f"ends in {there}, file_ending in dataset.json is {ending}; rename it to {better}, "
                "or correct file_ending",
            )
        elif _scan_ending(path):
            self.unread.append(
                f"{path}: ends in {_scan_ending(path)}, file_ending in dataset.json is {ending}; "
                f"convert it to {ending}, or correct file_ending, or remove it"
            )
        elif path.name.lower().endswith(DICOM_ENDINGS):
            self._error(path, self._dicom("a DICOM file"))
        else:
            self.warnings.append(f"{path}: skipped, it does not end in {ending}")

    def _error(self, path: Path, fault: str) -> None:
        self.errors.append(f"{path}: {fault}")

    def _sort_folder(self, path: Path) -> None:
        if _holds_dicom(path):
            self._error(path, self._dicom("a folder of DICOM files"))
        elif any(_scan_ending(file) for file in path.rglob("*")):
            self._error(path, f"a folder; scans must lie directly in {self.images.name}, move them")
        else:
            self.warnings.append(f"{path}: skipped, it is a folder without scans")

    def _dicom(self, what: str) -> str:
        if self.part != "Tr":
            return (
                f"{what}; in {self.images.name} only files that end in {self.ending} are read, "
                "convert it (code/predict.py reads DICOM folders as they are)"
            )
        return (
            f"{what}, which {self.images.name} cannot hold; put series elsewhere and name them in "
            'dataset.json with the key "dataset": {"CASE": {"images": ["FOLDER"], '
            '"label": "FILE"}} for every training case (docs/data.md), or convert them'
        )

    def _no_case(self) -> str:
        fault = f"{self.images}: no case in it that ends in _0000{self.ending}"
        problems = self.errors + self.unread
        if problems:
            first = f"{problems[0]}{and_more(problems)}"
            return f"{fault}; look at file_ending in dataset.json; {first}"
        return f"{fault}; look at file_ending in dataset.json"

    def _look_for_labels_folder(self) -> None:
        if self.labels is None or self.labels.is_dir():
            return
        other = _same_spelling(self.labels)
        if other:
            fault = (
                f"{self.labels}: no such folder, but {other} is there; "
                f"rename it to {self.labels.name}"
            )
        elif self.part == "Tr":
            fault = f"{self.labels}: no such folder; put the labels of imagesTr there"
        else:
            return
        self.errors.append(fault)

    def _label_files(self) -> list[Path]:
        if self.labels is None or not self.labels.is_dir():
            return []
        return [path for path in sorted(self.labels.iterdir()) if not path.name.startswith(".")]

    def _case_of_label(self, path: Path) -> str:
        """The case whose label has this name; empty for a file with another ending."""
        if not path.name.endswith(self.ending):
            return ""
        return path.name.removesuffix(self.ending)

    def _case(
        self, name: str, numbers: dict[int, Path], labels: Collection[Path], spare: Sequence[Path]
    ) -> RawCase:
        images = tuple(numbers[number] for number in sorted(numbers))
        label = None if self.labels is None else self.labels / f"{name}{self.ending}"
        if label is not None and label not in labels:
            label = None
        fault = self._channel_fault(name, sorted(numbers), spare)
        if not fault and label is None:
            fault = self._label_fault(name, spare)
        return RawCase(name, images, label, fault=fault)

    def _channel_fault(self, name: str, numbers: list[int], spare: Sequence[Path]) -> str:
        """What is wrong with the channel numbers of a case; empty where they are 0 to the last."""
        expected = list(range(self.channels))
        if numbers == expected:
            return ""
        fault = (
            f"{self.images}: channels {numbers} of {name} are there, expected 0 to "
            f"{self.channels - 1} (channel_names in dataset.json)"
        )
        ending = self.ending
        case_names = {self._case_of_label(path) for path in spare}
        numbered = [f"{name}_{number:04d}" for number in numbers]
        of_cases = [numbered_name for numbered_name in numbered if numbered_name in case_names]
        example = of_cases[0] if of_cases else numbered[-1]
        renamed = f"{example}{ending} to {example}_0000{ending}"
        if of_cases:
            return (
                f"{fault}; its last number names the case and a channel number is missing: "
                f"rename {renamed}"
            )
        if numbers == [number + 1 for number in expected]:
            fault += (
                f"; channel numbers start at 0: rename {numbered[0]}{ending} to {name}_0000{ending}"
            )
            if self.channels > 1:
                fault += ", and the others likewise"
                return fault
            return f"{fault}, or, if {numbers[0]:04d} is part of the case's name, rename {renamed}"
        missing = [number for number in expected if number not in numbers]
        surplus = [number for number in numbers if number not in expected]
        if missing and not surplus:
            return f"{fault}; put {name}_{missing[0]:04d}{ending} there"
        return f"{fault}; if the last number is part of the case's name, rename {renamed}"

    def _label_fault(self, name: str, spare: Sequence[Path]) -> str:
        """Why a case has no label, where that is a fault; `spare`: labels of no case."""
        if self.labels is None or not self.labels.is_dir():
            return ""
        expected = self.labels / f"{name}{self.ending}"
        names = [path.name for path in spare]
        if self.ending.startswith(".hdr"):  # an .img is no header, whatever it is renamed to
            names = [other for other in names if not other.lower().endswith((".img", ".img.gz"))]
        other = _like(name, names, exactly=self.part == "Ts")
        if other:
            also = ""
            if other.lower().endswith(".seg.nrrd"):
                also = " (save a segmentation of 3D Slicer as a label map)"
            return (
                f"{expected}: no such label, but {other} is there; if it is this case's, rename it "
                f"to {expected.name}{also}"
            )
        if self.part == "Tr":
            return f"{expected}: no such label; a case without label belongs in imagesUn"
        return ""

    def _report_spare(self, spare: Sequence[Path]) -> None:
        without = [path for path in spare if path.name.endswith(self.ending)]
        if without:
            self.warnings.append(
                f"{self.labels}: {len(without)} labels without images ({without[0].name} ...)"
            )
        for path in without:
            image = f"{self._case_of_label(path)}_0000{self.ending}"
            self.unmatched.append(
                f"{path}: a label without image; put {image} into {self.images.name}, or remove "
                "the label"
            )


def _like(name: str, files: Sequence[str], exactly: bool) -> str:
    """The one of the label files that seems to be the case's; empty where none does.

    `exactly`: by spelling and endings only.
    """
    cores = {_core(file): file for file in files}
    if folded(name) in cores:
        return cores[folded(name)]
    if exactly:
        return ""
    alike = [core for core in cores if _numbers(core) == _numbers(name)]
    close = nearest(folded(name), alike)
    return cores[close] if close else ""


def _numbers(name: str) -> list[int]:
    """The numbers in a name: another number is another case, however alike the names are."""
    return [int(digits) for digits in re.findall("[0-9]+", name)]


def _core(file: str) -> str:
    """A label file's name without endings, channel number and words such as _seg, in lower case."""
    name = folded(file)
    for ending in SCAN_ENDINGS:
        if name.endswith(ending):
            name = name.removesuffix(ending)
            break
    return MARKS.sub("", name)


def _scan_ending(path: Path) -> str:
    """The ending, as the file has it, of a file that is named like a scan; empty for any other."""
    for ending in SCAN_ENDINGS:
        if path.name.lower().endswith(ending):
            return path.name[-len(ending) :]
    return ""


def _holds_dicom(folder: Path) -> bool:
    """Whether a file below the folder is named like DICOM or begins like it."""
    looked_at = 0
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.name.startswith("."):
            continue
        if path.name.upper() == "DICOMDIR" or path.name.lower().endswith(DICOM_ENDINGS):
            return True
        looked_at += 1
        if looked_at > LOOKED_AT:
            return False
        try:
            with open(path, "rb") as stream:
                stream.seek(128)
                if stream.read(4) == b"DICM":
                    return True
        except OSError:
            continue
    return False


def shown_problems(problems: Sequence[str]) -> str:
    """The files that the first problems name, for one line."""
    names = [Path(problem.split(": ")[0]).name for problem in problems]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
