"""The scans to predict: files and DICOM series of a folder, and the names of their predictions."""

import os
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from datasets.prepare.prepared_files import RawCase
from scans.dicom import holds_volume, series_folders
from scans.scan_files import SCANS, UNCERTAINTY_MAP, VOXELS, file_stem, is_broken_scan
from utils.errors import UserError
from utils.files import files_below

PICTURES = (".png",)
CHANNEL = re.compile(r"(.+)_(\d{4})")
# labels next to their scans in the published downloads
LABELS = re.compile(
    r"(.+_gt|laendo|label\d{4}|segmentation(-\d+)?)\.(nii|nii\.gz|nrrd)", re.IGNORECASE
)


def find_inputs(
    source: Path, channels: int, pictures: bool, output: Path, download: bool
) -> list[RawCase]:
    """The cases of a folder, or the one of a file.

    Files may be at any depth below the folder, except those in `output`. A case is named by its
    path below the folder, without ending. If there are several modalities, the name of each file
    ends in the number of its channel, as in nnU-Net; with one modality that ending is removed if
    all names have it. A picture has all its channels. `pictures`: PNG pictures are taken too.
    `download`: labels named as in a published download are omitted. Raises UserError if there is no
    scan.
    """
    if not source.exists():
        raise UserError(f"--input {source}: no such file or folder; check the path")
    endings = (*SCANS, *PICTURES) if pictures else SCANS
    if source.is_file():
        return _one_file(source, channels, endings)
    if (source / "dataset.json").is_file():
        raise UserError(
            f"--input {source}: is a whole data set; name the folder of the scans to predict, such "
            f"as {source / 'imagesTs'}"
        )
    files = _files(source, output, endings, download=download)
    scans: dict[Path, str] = {}
    for path in files:
        stem = file_stem(path, endings)
        if stem and not UNCERTAINTY_MAP.fullmatch(stem):
            scans[path] = stem
    cases = _cases(source, scans, channels)
    if channels == 1:
        others = [path for path in files if not _ends_in(path, (*SCANS, *VOXELS, *PICTURES))]
        cases += _series(source, others)
    if not cases:
        hint = ""
        if any(_ends_in(path, PICTURES) for path in files):
            hint = ", and pictures are for 2-D networks"
        raise UserError(
            f"--input {source}: no scan below it; {', '.join(endings)} files and folders of DICOM "
            f"series are taken{hint}"
        )
    _check_names(cases)
    return sorted(cases, key=lambda case: case.name)


def _files(source: Path, output: Path, endings: Collection[str], download: bool) -> list[Path]:
    """The files below the folder, except hidden ones and those in the folder of the predictions.

    `download`: labels are omitted too.
    """
    predictions = output.resolve()
    files: list[Path] = []
    for path in files_below(source):
        # a scan may be a broken link or a pipe: reading it reports that
        is_input = path.is_file() or is_broken_scan(path, endings)
        if not is_input or _is_hidden(path.relative_to(source)):
            continue
        if download and LABELS.fullmatch(path.name):
            continue
        # os.path.realpath, unlike Path.resolve, accepts links that form a circle
        if not Path(os.path.realpath(path)).is_relative_to(predictions):
            files.append(path)
    return files


def _check_names(cases: Iterable[RawCase]) -> None:
    """Raise UserError if the predictions of two cases would have the same name."""
    by_name: dict[str, RawCase] = {}
    for case in cases:
        other = by_name.setdefault(case.name, case)
        if other is not case:
            raise UserError(
                f"{case.images[0]}: its prediction would have the same name as that of "
                f"{other.images[0]}; remove one of them"
            )


def part_of(cases: list[RawCase], part: str | None) -> list[RawCase]:
    """Every n-th case, beginning with the i-th, for `part` i/n; UserError for anything else."""
    if part is None:
        return cases
    match = re.fullmatch(r"(\d+)/(\d+)", part)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise UserError(f"--part {part}: expected i/n with i from 1 to n, such as 1/4")
    return cases[int(match[1]) - 1 :: int(match[2])]


def _one_file(path: Path, channels: int, endings: Collection[str]) -> list[RawCase]:
    stem = file_stem(path, (*endings, *VOXELS))
    if not stem and channels == 1 and holds_volume(path):
        return [_case(path.stem, path)]
    if not stem:
        raise UserError(
            f"--input {path}: does not end in {', '.join(endings)}; for a DICOM series name the "
            f"folder"
        )
    if channels == 1 or _ends_in(path, PICTURES):
        return [_case(_without_number(stem), path)]
    ending = path.name.removeprefix(stem)
    match = CHANNEL.fullmatch(stem)
    if not match:
        raise UserError(
            f"--input {path}: the network takes {channels} modalities; name CASE_0000{ending}, "
            f"with the others next to it"
        )
    modalities: dict[Path, str] = {}
    for number in range(channels):
        name = f"{match[1]}_{number:04d}"
        file = path.parent / f"{name}{ending}"
        if file.is_file():
            modalities[file] = name
    return _cases(path.parent, modalities, channels)


def _cases(source: Path, scans: Mapping[Path, str], channels: int) -> list[RawCase]:
    """Group files to cases; `scans` has each file's name without ending."""
    names: dict[Path, str] = {}
    for path, stem in scans.items():
        names[path] = (path.parent.relative_to(source) / stem).as_posix()
    if channels > 1:
        return _cases_of_channels(source, names, channels)
    if all(name.endswith("_0000") for name in names.values()):
        names = {path: _without_number(name) for path, name in names.items()}
    return [_case(name, path) for path, name in names.items()]


def _cases_of_channels(source: Path, names: Mapping[Path, str], channels: int) -> list[RawCase]:
    """Group the files of several modalities; a picture is a case."""
    cases: list[RawCase] = []
    files_by_case: dict[str, dict[int, Path]] = {}
    for path, name in names.items():
        if _ends_in(path, PICTURES):
            cases.append(_case(name, path))
            continue
        match = CHANNEL.fullmatch(name)
        if not match:
            raise UserError(
                f"{path}: the network takes {channels} modalities, so its name must end in a "
                f"channel number, such as _0000"
            )
        files_by_case.setdefault(match[1], {})[int(match[2])] = path
    for name, files in files_by_case.items():
        numbers = sorted(files)
        fault = ""
        if numbers != list(range(channels)):
            fault = f"{source / name}: has channels {numbers}, expected 0 to {channels - 1}"
        images = tuple(files[number] for number in numbers)
        cases.append(RawCase(name, images, part="predict", fault=fault))
    return cases


def _series(source: Path, files: Collection[Path]) -> list[RawCase]:
    """The folders of these files that hold a DICOM series."""
    cases: list[RawCase] = []
    for folder in series_folders(files):
        name = folder.relative_to(source).as_posix()
        if folder == source:
            name = source.resolve().name
        cases.append(_case(name, folder))
    return cases


def _case(name: str, path: Path) -> RawCase:
    return RawCase(name, (path,), part="predict")


def _ends_in(path: Path, endings: tuple[str, ...]) -> bool:
    return path.name.lower().endswith(endings)


def _without_number(name: str) -> str:
    return name.removesuffix("_0000") or name


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts) or path.name == "DICOMDIR"
