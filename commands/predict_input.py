"""The scans to predict: files and DICOM series of a folder, each with the name that its prediction gets."""

import os
import re
from collections.abc import Collection
from pathlib import Path

from datasets.prepare.prepared_files import RawCase
from scans.dicom import holds_volume, series_folders
from scans.scan_files import SCANS, VOXELS, file_stem, is_broken_scan
from utils.errors import UserError
from utils.files import files_below

PICTURES = (".png",)
CHANNEL = re.compile(r"(.+)_(\d{4})")
# labels as they lie beside their scans in the published downloads
LABELS = re.compile(
    r"(.+_gt|laendo|label\d{4}|segmentation(-\d+)?)\.(nii|nii\.gz|nrrd)", re.IGNORECASE
)


def find_inputs(
    source: Path, channels: int, pictures: bool, output: Path, download: bool
) -> list[RawCase]:
    """The cases of a folder (files wherever they lie below it, but for those in `output`), or the one of a file.

    A case is named by its path below the folder, without ending. Of several modalities every file's name ends in its channel's number,
    as nnU-Net has it; with one modality that ending is cut off where all names have it. A picture holds all its channels. `download`:
    labels named as in a published download are left out. Raises UserError where there is no scan.
    """
    if not source.exists():
        raise UserError(f"--input {source}: no such file or folder")
    endings = (*SCANS, *PICTURES) if pictures else SCANS
    if source.is_file():
        return _one_file(source, channels, endings)
    if (source / "dataset.json").is_file():
        raise UserError(
            f"--input {source}: is a whole data set; name the folder of the scans to predict, such as {source / 'imagesTs'}"
        )
    # a scan may be a link to nothing or a pipe: reading it reports that
    files = [
        path
        for path in files_below(source)
        if (path.is_file() or is_broken_scan(path, endings))
        and not _hidden(path.relative_to(source))
    ]
    # os.path.realpath, unlike Path.resolve, takes links that lead in a circle
    files = [
        path for path in files if not Path(os.path.realpath(path)).is_relative_to(output.resolve())
    ]
    files = [path for path in files if not (download and LABELS.fullmatch(path.name))]
    scans = {path: name for path in files if (name := file_stem(path, endings))}
    cases = _cases(source, scans, channels)
    if channels == 1:
        cases += _series(
            source,
            [
                path
                for path in files
                if not path.name.lower().endswith((*SCANS, *VOXELS, *PICTURES))
            ],
        )
    if not cases:
        png = (
            ""
            if pictures or not any(path.suffix.lower() in PICTURES for path in files)
            else ", and pictures are for 2-D networks"
        )
        raise UserError(
            f"--input {source}: no scan below it; {', '.join(endings)} files and folders of DICOM series are taken{png}"
        )
    names: dict[str, RawCase] = {}
    for case in cases:
        if (other := names.setdefault(case.name, case)) is not case:
            raise UserError(
                f"{case.images[0]}: its prediction would be called as that of {other.images[0]}; take one of them away"
            )
    return sorted(cases, key=lambda case: case.name)


def part_of(cases: list[RawCase], part: str | None) -> list[RawCase]:
    """Every n-th case, from the i-th on, for `part` i/n; UserError for anything else."""
    if part is None:
        return cases
    found = re.fullmatch(r"(\d+)/(\d+)", part)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise UserError(f"--part {part}: expected i/n with i from 1 to n, such as 1/4")
    return cases[int(found[1]) - 1 :: int(found[2])]


def _one_file(path: Path, channels: int, endings: Collection[str]) -> list[RawCase]:
    stem = file_stem(path, (*endings, *VOXELS))
    if not stem and channels == 1 and holds_volume(path):
        return [RawCase(path.stem, (path,), part="predict")]
    if not stem:
        raise UserError(
            f"--input {path}: does not end in {', '.join(endings)}; of a DICOM series name the folder"
        )
    if channels == 1 or path.name.lower().endswith(PICTURES):
        return [RawCase(_without_number(stem), (path,), part="predict")]
    ending, found = path.name.removeprefix(stem), CHANNEL.fullmatch(stem)
    if not found:
        raise UserError(
            f"--input {path}: the network takes {channels} modalities; name CASE_0000{ending}, the others beside it"
        )
    siblings = {
        path.parent / f"{found[1]}_{number:04d}{ending}": f"{found[1]}_{number:04d}"
        for number in range(channels)
    }
    return _cases(
        path.parent, {file: name for file, name in siblings.items() if file.is_file()}, channels
    )


def _cases(source: Path, scans: dict[Path, str], channels: int) -> list[RawCase]:
    """Files put together to cases; `scans` gives each file's name without ending."""
    names = {
        path: (path.parent.relative_to(source) / name).as_posix() for path, name in scans.items()
    }
    if channels == 1:
        cut = all(name.endswith("_0000") for name in names.values())
        return [
            RawCase(_without_number(name) if cut else name, (path,), part="predict")
            for path, name in names.items()
        ]
    groups: dict[str, dict[int, Path]] = {}
    cases = [
        RawCase(name, (path,), part="predict")
        for path, name in names.items()
        if path.name.lower().endswith(PICTURES)
    ]
    for path, name in names.items():
        if path.name.lower().endswith(PICTURES):
            continue
        if not (found := CHANNEL.fullmatch(name)):
            raise UserError(
                f"{path}: the network takes {channels} modalities, so its name must end in a channel number, such as _0000"
            )
        groups.setdefault(found[1], {})[int(found[2])] = path
    for name, mine in groups.items():
        there = sorted(mine)
        fault = (
            ""
            if there == list(range(channels))
            else f"{source / name}: channels {there} are there, expected 0 to {channels - 1}"
        )
        cases.append(
            RawCase(
                name, tuple(mine[number] for number in sorted(mine)), part="predict", fault=fault
            )
        )
    return cases


def _series(source: Path, files: Collection[Path]) -> list[RawCase]:
    """Folders that hold a DICOM series, of those that hold the `files`."""
    places = series_folders(files)
    names = [
        source.resolve().name if place == source else place.relative_to(source).as_posix()
        for place in places
    ]
    return [
        RawCase(name, (place,), part="predict") for place, name in zip(places, names, strict=True)
    ]


def _without_number(name: str) -> str:
    return name.removesuffix("_0000") or name


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts) or os.path.basename(path) == "DICOMDIR"
