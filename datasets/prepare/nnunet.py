"""nnU-Net's raw layout, read: dataset.json, the cases of its folders, and which of them train,
validate and test.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datasets.prepare.nnunet_folders import Folder, read_folder, shown_problems
from datasets.prepare.prepared_files import RawCase
from utils.errors import UserError
from utils.files import shown
from utils.json_file import read_json, whole
from utils.names import MEAN_OF_CLASSES, case_name_fault, folded, nearest, printable

KEYS = ("channel_names", "labels", "numTraining", "file_ending")
ENDING = re.compile(r"(\.[A-Za-z0-9]+)+")


@dataclass(frozen=True)
class RawDataset:
    """`labels`: (value, name), the background first, the others by value; `cases` with part train,
    val, test or unlabelled.
    """

    name: str
    channel_names: tuple[str, ...]
    labels: tuple[tuple[int, str], ...]
    cases: tuple[RawCase, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Declared:
    """What dataset.json declares of all cases."""

    channel_names: tuple[str, ...]
    labels: tuple[tuple[int, str], ...]
    ending: str
    name: str


Report = Callable[[str], None]


def refuse(fault: str) -> None:
    """Raise UserError for the fault."""
    raise UserError(fault)


def read_dataset(source: Path, report: Report = refuse) -> RawDataset:
    """Read what the folder contains.

    Raises UserError where dataset.json or the folders are not as expected. A fault of one case is
    noted in the case. `report` is called with each fault that leaves the rest readable; if it
    returns, reading continues without the faulty part.
    """
    path = source / "dataset.json"
    content = _dataset_json(path)
    declared = _declared(path, source, content, report)
    channels = len(declared.channel_names)
    if "dataset" in content:
        train = Folder(_explicit(path, source, content["dataset"], channels))
    else:
        train = read_folder(source, "Tr", declared.ending, channels)
    unlabelled = read_folder(source, "Un", declared.ending, channels)
    test = read_folder(source, "Ts", declared.ending, channels)
    warnings: list[str] = []
    for folder in (train, unlabelled, test):
        warnings += folder.warnings
        for fault in folder.errors:
            report(fault)
    _check_count(path, content["numTraining"], train, warnings, report)
    warnings += [*unlabelled.unread, *test.unread]
    parts = {"train": train.cases, "unlabelled": unlabelled.cases, "test": test.cases}
    _check_twice(source, parts, report)
    parts = _with_name_faults(source, parts)
    bare = [case for case in parts["test"] if case.label is None and not case.fault]
    if bare:
        warnings.append(
            f"{len(bare)} cases of imagesTs have no label ({bare[0].name} ...): not prepared"
        )
    split = _split(source, parts["train"], warnings, report)
    cases = [replace(case, part=split[case.name]) for case in parts["train"] if case.name in split]
    cases += [replace(case, part="unlabelled") for case in parts["unlabelled"]]
    cases += [
        replace(case, part="test") for case in parts["test"] if case.label is not None or case.fault
    ]
    return RawDataset(
        name=declared.name,
        channel_names=declared.channel_names,
        labels=declared.labels,
        cases=tuple(cases),
        warnings=tuple(warnings),
    )


def _json(path: Path) -> Any:
    if not path.is_file():
        raise UserError(
            f"{path}: no such file; docs/data.md shows nnU-Net's raw layout, which own data come in"
        )
    try:
        return read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable as JSON ({error}); correct it") from None


def _dataset_json(path: Path) -> dict[str, Any]:
    """The content of dataset.json, an object with all required keys."""
    content = _json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected an object with the keys {', '.join(KEYS)}")
    missing = [key for key in KEYS if key not in content]
    if not missing:
        return content
    old = ""
    if "channel_names" in missing and "modality" in content:
        old = " (an older nnU-Net's has modality in its place)"
    names = " and no ".join(f"'{key}'" for key in missing)
    raise UserError(f"{path}: no {names} in it{old}; it needs {', '.join(KEYS)}")


def _declared(path: Path, source: Path, content: dict, report: Report) -> Declared:
    """What all cases share.

    Every faulty key is reported. Raises UserError where one is.
    """
    faults: list[str] = []

    def value_of(read: Callable[[Path, Any], Any], key: str) -> Any:
        try:
            return read(path, content[key])
        except UserError as error:
            faults.append(str(error))
            return None

    channel_names = value_of(_channels, "channel_names")
    labels = value_of(_labels, "labels")
    ending = value_of(_ending, "file_ending")
    name = str(content.get("name", source.resolve().name))
    if not name.isprintable():
        faults.append(f"{path}: name {shown(name)} holds control characters; remove them")
    if faults:
        for fault in faults[1:]:
            report(fault)
        raise UserError(faults[0])
    return Declared(channel_names, labels, ending, name)


def _ending(path: Path, ending: Any) -> str:
    if not isinstance(ending, str) or not ENDING.fullmatch(ending):
        raise UserError(f"{path}: file_ending {ending!r}, expected one such as .nii.gz")
    return ending


def _channels(path: Path, channels: Any) -> tuple[str, ...]:
    """Names in the order of their numbers, which must be 0, 1, 2 ..."""
    if (
        not isinstance(channels, dict)
        or not channels
        or sorted(channels) != sorted(map(str, range(len(channels))))
    ):
        raise UserError(
            f'{path}: channel_names must number the modalities from 0, such as {{"0": "T1", "1": '
            f'"T2"}}, not {channels}'
        )
    names = tuple(str(channels[str(number)]) for number in range(len(channels)))
    for name in names:
        _check_name(path, "channel", name)
    return names


def _check_name(path: Path, what: str, name: str) -> None:
    """UserError for a name that a table or a terminal cannot show."""
    if not name.strip():
        raise UserError(f"{path}: a {what} has an empty name; give it one")
    if not name.isprintable():
        raise UserError(
            f"{path}: the {what} name {shown(name)} holds control characters; rename it"
        )


def _labels(path: Path, labels: Any) -> tuple[tuple[int, str], ...]:
    example = '{"background": 0, "liver": 1}'
    if not isinstance(labels, dict):
        raise UserError(
            f"{path}: labels must name values, background 0 among them, such as {example}, not "
            f"{labels}"
        )
    values = {name: whole(value) for name, value in labels.items()}
    if values.get("background") != 0:
        swapped = ""
        if labels.get("0") == "background":
            swapped = "; older nnU-Nets had it the other way round, exchange names and values"
        raise UserError(
            f"{path}: labels must name values, background 0 among them, such as {example}, "
            f"not {labels}{swapped}"
        )
    for name, value in values.items():
        _check_label(path, name, value, example)
    if len(set(values.values())) < len(values):
        raise UserError(f"{path}: two labels have the same value ({labels}); give each its own")
    if not 2 <= len(values) <= 256:
        raise UserError(
            f"{path}: {len(values)} labels, expected the background and 1 to 255 others"
        )
    return tuple(sorted((value, name) for name, value in values.items()))


def _check_label(path: Path, name: str, value: Any, example: str) -> None:
    _check_name(path, "label", name)
    if name == MEAN_OF_CLASSES:
        raise UserError(
            f"{path}: a label has the name of the mean over all classes, {MEAN_OF_CLASSES}; "
            "rename it"
        )
    if isinstance(value, list):
        raise UserError(
            f"{path}: label {name} is a region of several values, which is not supported; name "
            "each value"
        )
    if name == "ignore":
        raise UserError(
            f"{path}: an ignore label is not supported; remove it, and the cases that contain it"
        )
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 65536:
        raise UserError(
            f"{path}: label {name} has the value {value!r}, expected a whole number such as in "
            f"{example}"
        )


def _explicit(path: Path, source: Path, cases: Any, channels: int) -> tuple[RawCase, ...]:
    """Cases whose files, or folders of DICOM series, dataset.json names, each relative to it."""
    example = '{"images": [...], "label": ...}'
    if not isinstance(cases, dict):
        raise UserError(f"{path}: dataset must give each case {example}; correct or remove it")
    return tuple(
        _explicit_case(path, source, name, files, channels) for name, files in cases.items()
    )


def _explicit_case(path: Path, source: Path, name: str, files: Any, channels: int) -> RawCase:
    """One case of `dataset`; a fault of it stops no other case.

    Its files may lie anywhere: they are only read.
    """
    images = files.get("images") if isinstance(files, dict) else None
    label = files.get("label") if isinstance(files, dict) else None
    images = images if isinstance(images, list) else []
    named = [*images, label]
    if not images or not all(isinstance(file, str) and file for file in named):
        fault = (
            f'{path}: dataset must give the case {shown(name)} {{"images": [...], "label": ...}}, '
            "each a file or the folder of a series; correct or remove it"
        )
        return RawCase(name, (), fault=fault)
    paths = [source / file for file in named]
    if len(images) != channels:
        fault = (
            f"{path}: names {len(images)} images for {shown(name)}, "
            f"but there are {channels} modalities"
        )
    else:
        fault = _missing_file(path, paths)
    return RawCase(name, tuple(paths[:-1]), paths[-1], fault=fault)


def _missing_file(path: Path, paths: Sequence[Path]) -> str:
    """A fault for the first path that is neither a file nor the folder of a series; empty where all
    are.
    """
    for file in paths:
        try:
            if file.is_file() or file.is_dir():
                continue
            others = [other.name for other in file.parent.iterdir()]
        except (OSError, ValueError):
            others = []
        other = nearest(file.name, others)
        also = f"; {other} is there, if that is meant" if other else ""
        return f"{printable(str(file))}: no such file, though {path} names it{also}"
    return ""


def _check_count(
    path: Path, expected: Any, train: Folder, warnings: list[str], report: Report
) -> None:
    """Compare numTraining with the training cases; report which files may be the reason if they
    differ.
    """
    number = len(train.cases)
    if whole(expected) == number:
        warnings += train.unread
        return
    for problem in (*train.unread, *train.unmatched):
        report(problem)
    faults = [case.fault for case in train.cases if case.fault]
    problems = [*train.errors, *train.unread, *train.unmatched, *faults]
    remedy = "correct that"
    if problems:
        remedy = (
            f"look at these first: {shown_problems(problems)}; correct numTraining only if it is "
            "still wrong then"
        )
    report(f"{path}: numTraining is {expected}, but there are {number} training cases; {remedy}")


def _check_twice(source: Path, parts: dict[str, tuple[RawCase, ...]], report: Report) -> None:
    """Report each case that is in two folders."""
    seen: dict[str, str] = {}
    for part, cases in parts.items():
        for case in cases:
            if case.name in seen:
                report(
                    f"{source}: case {case.name} is in {seen[case.name]} and in {part}; remove one "
                    "of them, or give it another name"
                )
            seen.setdefault(case.name, part)


def _with_name_faults(
    source: Path, parts: dict[str, tuple[RawCase, ...]]
) -> dict[str, tuple[RawCase, ...]]:
    """The cases, those with a fault whose name no file can have, or that macOS and Windows take for
    another case's.
    """
    alike: dict[str, dict[str, None]] = {}
    for cases in parts.values():
        for case in cases:
            alike.setdefault(folded(case.name), {})[case.name] = None
    checked = {}
    for part, cases in parts.items():
        checked[part] = tuple(
            replace(case, fault=_name_fault(source, case.name, alike) or case.fault)
            for case in cases
        )
    return checked


def _name_fault(source: Path, name: str, alike: dict[str, dict[str, None]]) -> str:
    fault = case_name_fault(name)
    if fault:
        return f"{source}: the case name {shown(name)} {fault}; rename the case"
    others = [other for other in alike[folded(name)] if other != name]
    if others:
        return (
            f"{source}: the case names {name} and {others[0]} differ only in upper and lower case, "
            "so that macOS and Windows take their files for one; rename one of them"
        )
    return ""


def _split(
    source: Path, train: Sequence[RawCase], warnings: list[str], report: Report
) -> dict[str, str]:
    """Labelled case to train or val: fold 0 of splits_final.json, or else the last fifth in order
    of the names is held out.
    """
    path = source / "splits_final.json"
    if not path.is_file():
        return _default_split(train, warnings)
    fold = _first_fold(path)
    if fold is None:
        report(
            f'{path}: expected a list of folds, each {{"train": [...], "val": [...]}}; correct '
            "or remove it"
        )
        return dict.fromkeys((case.name for case in train), "train")
    names = {case.name for case in train}
    # macOS stores accents otherwise than most editors write them
    as_stored = {unicodedata.normalize("NFC", name): name for name in names}
    chosen: dict[str, str] = {}
    for part, some in fold.items():
        for written in some:
            name = as_stored.get(unicodedata.normalize("NFC", written), written)
            if name not in names:
                report(_unknown_case(path, name, names))
            elif chosen.setdefault(name, part) != part:
                report(f"{path}: {name} is in train and in val of fold 0; remove it from one")
    if "train" not in chosen.values():
        report(f"{path}: fold 0 has no training case; correct or remove it")
    if "val" not in chosen.values():
        warnings.append(
            f"{path}: fold 0 holds out no case for validation; train with --select last"
        )
    if len(chosen) < len(names):
        warnings.append(
            f"{path.name}: {len(names) - len(chosen)} cases of imagesTr are in no part of fold 0, "
            "and skipped"
        )
    return chosen


def _default_split(train: Sequence[RawCase], warnings: list[str]) -> dict[str, str]:
    """The last fifth of the cases by name validates, but no case whose name is refused: it will get
    another one.
    """
    split = dict.fromkeys((case.name for case in train), "train")
    names = sorted(case.name for case in train if not case_name_fault(case.name))
    if len(names) < 2:
        warnings.append(
            "a single labelled case: none is left for validation. Train with --select last, which "
            "needs none (the last network is the result); cross-validation needs at least two "
            "labelled cases"
        )
        return split
    held = names[-max(1, len(names) // 5) :]
    warnings.append(
        f"no splits_final.json: {', '.join(held)} held out for validation; write one to choose "
        "others"
    )
    return split | dict.fromkeys(held, "val")


def _first_fold(path: Path) -> dict[str, list[str]] | None:
    """The names of fold 0 by part; None where the file is not a list of folds."""
    folds = _json(path)
    if not isinstance(folds, list) or not folds or not isinstance(folds[0], dict):
        return None
    fold = {}
    for part in ("train", "val"):
        names = folds[0].get(part)
        if not isinstance(names, list):
            return None
        fold[part] = [str(name) for name in names]
    return fold


def _unknown_case(path: Path, name: str, names: set[str]) -> str:
    other = nearest(name, sorted(names))
    meant = f" (did you mean {other}?)" if other else ""
    return (
        f"{path}: fold 0 names {shown(name)}, which is not a case of imagesTr{meant}; "
        "correct or remove it"
    )
