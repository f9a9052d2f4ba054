"""nnU-Net's raw layout, read: dataset.json, the cases of its folders, and which of them train, validate and test."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from preparation.files import RawCase
from utils.errors import UserError

KEYS = ("channel_names", "labels", "numTraining", "file_ending")


@dataclass(frozen=True)
class RawDataset:
    """`labels`: (value, name), the background first, the others by value; `cases` with part train, val, test or unlabelled."""

    name: str
    channel_names: tuple[str, ...]
    labels: tuple[tuple[int, str], ...]
    cases: tuple[RawCase, ...]
    said: tuple[str, ...]


Tell = Callable[[str], None]


def refuse(fault: str) -> None:
    raise UserError(fault)


def read_dataset(source: Path, tell: Tell = refuse) -> RawDataset:
    """What the folder holds; UserError where dataset.json or the folders are not as expected. A fault of one case is noted in the case.

    `tell` is given each fault that leaves the rest readable; where it returns, the reading goes on without the part at fault.
    """
    path = source / "dataset.json"
    about = _json(path)
    missing = [key for key in KEYS if key not in about] if isinstance(about, dict) else list(KEYS)
    if missing:
        old = (
            " (an older nnU-Net's has modality in its place)"
            if missing[0] == "channel_names" and "modality" in about
            else ""
        )
        raise UserError(f"{path}: no '{missing[0]}' in it{old}; it needs {', '.join(KEYS)}")
    channels, labels = _channels(path, about["channel_names"]), _labels(path, about["labels"])
    ending = about["file_ending"]
    if not (isinstance(ending, str) and ending.startswith(".")):
        raise UserError(f"{path}: file_ending {ending!r}, expected one such as .nii.gz")
    said: list[str] = []
    if "dataset" in about:
        train = _explicit(path, source, about["dataset"], len(channels))
    else:
        train = _folder(source, "imagesTr", "labelsTr", ending, len(channels), said, tell)
    if about["numTraining"] != len(train):
        tell(
            f"{path}: numTraining is {about['numTraining']}, but there are {len(train)} training cases; correct that"
        )
    unlabelled = _folder(source, "imagesUn", None, ending, len(channels), said, tell)
    test = _folder(source, "imagesTs", "labelsTs", ending, len(channels), said, tell)
    parts = {"train": train, "unlabelled": unlabelled, "test": test}
    seen: dict[str, str] = {}
    for part, cases in parts.items():
        for case in cases:
            if case.name in seen:
                tell(
                    f"{source}: case {case.name} is in {seen[case.name]} and in {part}; take one of them away, or give it another name"
                )
            seen.setdefault(case.name, part)
    bare = [case for case in test if case.label is None]
    if bare:
        said.append(
            f"{len(bare)} cases of imagesTs have no label ({bare[0].name} ...): not prepared"
        )
    split = _split(source, train, said, tell)
    cases = [replace(case, part=split[case.name]) for case in train if case.name in split]
    cases += [replace(case, part="unlabelled") for case in unlabelled]
    cases += [replace(case, part="test") for case in test if case.label is not None]
    return RawDataset(
        str(about.get("name", source.resolve().name)), channels, labels, tuple(cases), tuple(said)
    )


def _json(path: Path):
    if not path.is_file():
        raise UserError(
            f"{path}: no such file; docs/data.md shows nnU-Net's raw layout, which own data come in"
        )
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise UserError(f"{path}: not readable as JSON ({error}); mend it") from None


def _channels(path: Path, channels) -> tuple[str, ...]:
    """Names in the order of their numbers, which must be 0, 1, 2 ..."""
    if (
        not isinstance(channels, dict)
        or sorted(channels) != sorted(map(str, range(len(channels))))
        or not channels
    ):
        raise UserError(
            f'{path}: channel_names must number the modalities from 0, such as {{"0": "T1", "1": "T2"}}, not {channels}'
        )
    return tuple(str(channels[str(number)]) for number in range(len(channels)))


def _labels(path: Path, labels) -> tuple[tuple[int, str], ...]:
    example = '{"background": 0, "liver": 1}'
    if not isinstance(labels, dict) or labels.get("background") != 0:
        raise UserError(
            f"{path}: labels must name values, background 0 among them, such as {example}, not {labels}"
        )
    for name, value in labels.items():
        if isinstance(value, list):
            raise UserError(
                f"{path}: label {name} is a region of several values, which is not supported; name each value"
            )
        if name == "ignore":
            raise UserError(
                f"{path}: an ignore label is not supported; take it out, and the cases that hold it"
            )
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 65536:
            raise UserError(
                f"{path}: label {name} has the value {value!r}, expected a whole number such as in {example}"
            )
    if len(set(labels.values())) < len(labels):
        raise UserError(f"{path}: two labels have the same value ({labels}); give each its own")
    if not 2 <= len(labels) <= 256:
        raise UserError(
            f"{path}: {len(labels)} labels, expected the background and 1 to 255 others"
        )
    return tuple(sorted((value, name) for name, value in labels.items()))


def _explicit(path: Path, source: Path, cases, channels: int) -> list[RawCase]:
    """Cases whose files, or folders of DICOM series, dataset.json names, each relative to it."""
    found = []
    try:
        for name, files in cases.items():
            images, label = (
                tuple(source / file for file in files["images"]),
                source / files["label"],
            )
            gone = [
                file for file in (*images, label) if not file.exists()
            ]  # a DICOM series is a folder
            fault = f"{gone[0]}: no such file, though {path} names it" if gone else ""
            if len(images) != channels:
                fault = f"{path}: names {len(images)} images for {name}, but there are {channels} modalities"
            found.append(RawCase(name, images, label, fault=fault))
    except (AttributeError, KeyError, TypeError):
        raise UserError(
            f'{path}: dataset must give each case {{"images": [...], "label": ...}}; mend it, or take it out'
        ) from None
    return found


def _folder(
    source: Path,
    images: str,
    labels: str | None,
    ending: str,
    channels: int,
    said: list[str],
    tell: Tell,
) -> list[RawCase]:
    """The cases of one folder of images; every case of imagesTr needs a label, and of imagesUn none is ever looked for."""
    place, needed = source / images, images == "imagesTr"
    if not place.is_dir():
        if needed:
            raise UserError(
                f"{place}: no such folder; docs/data.md shows nnU-Net's raw layout, which own data come in"
            )
        return []
    pattern, files = re.compile(rf"(.+)_(\d{{4}}){re.escape(ending)}"), {}
    for path in sorted(path for path in place.iterdir() if not path.name.startswith(".")):
        if not path.name.endswith(ending):
            said.append(f"{path}: left out, it does not end in {ending}")
        elif not (name := pattern.fullmatch(path.name)):
            better = path.name.removesuffix(ending) + "_0000" + ending
            tell(f"{path}: the name ends in no channel number; rename it, such as {better}")
        else:
            files.setdefault(name[1], {})[int(name[2])] = path
    if needed and not files:
        raise UserError(
            f"{place}: no case in it that ends in _0000{ending}; look at file_ending in dataset.json"
        )
    found = []
    for name, mine in files.items():
        label = source / labels / f"{name}{ending}" if labels else None
        there = label is not None and label.is_file()
        fault = ""
        if sorted(mine) != list(range(channels)):
            fault = f"{place}: channels {sorted(mine)} of {name} are there, expected 0 to {channels - 1} (channel_names in dataset.json)"
        elif needed and not there:
            fault = f"{label}: no such label; a case that has none belongs into imagesUn"
        found.append(
            RawCase(
                name,
                tuple(mine[number] for number in sorted(mine)),
                label if there else None,
                fault=fault,
            )
        )
    if labels and (source / labels).is_dir():
        surplus = [
            path.name
            for path in sorted((source / labels).glob(f"*{ending}"))
            if path.name.removesuffix(ending) not in files
        ]
        if surplus:
            said.append(
                f"{source / labels}: {len(surplus)} labels without images ({surplus[0]} ...)"
            )
    return found


def _split(source: Path, train: list[RawCase], said: list[str], tell: Tell) -> dict[str, str]:
    """Labelled case to train or val: fold 0 of splits_final.json, or else the last fifth in order of the names is held out."""
    names, path = sorted(case.name for case in train), source / "splits_final.json"
    if not path.is_file():
        held = max(1, len(names) // 5) if len(names) > 1 else 0
        if held:
            said.append(
                f"no splits_final.json: {', '.join(names[-held:])} held out for validation; write one to choose others"
            )
        else:
            said.append("a single labelled case: none is left for validation")
        return {
            name: "val" if number >= len(names) - held else "train"
            for number, name in enumerate(names)
        }
    splits = _json(path)
    try:
        fold = {part: [str(name) for name in splits[0][part]] for part in ("train", "val")}
    except (TypeError, KeyError, IndexError):
        tell(
            f'{path}: expected a list of folds, each {{"train": [...], "val": [...]}}; mend it, or take it away'
        )
        return dict.fromkeys(names, "train")
    chosen: dict[str, str] = {}
    for part, some in fold.items():
        for name in some:
            if name not in names:
                tell(
                    f"{path}: fold 0 names {name}, which is no case of imagesTr; mend it, or take it away"
                )
            elif chosen.setdefault(name, part) != part:
                tell(f"{path}: {name} is in train and in val of fold 0; take it out of one")
    if "train" not in chosen.values():
        tell(f"{path}: fold 0 has no training case; mend it, or take it away")
    if len(chosen) < len(names):
        said.append(
            f"{path.name}: {len(names) - len(chosen)} cases of imagesTr are in no part of fold 0, and left out"
        )
    return chosen
