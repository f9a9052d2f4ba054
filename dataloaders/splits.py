"""Faults in a data set's lists, found before any image is read."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from dataloaders.dataset_info import DatasetInfo
from dataloaders.hdf5 import check_root
from utils.errors import UserError

WHOLE = ("val", "test")
"""Splits whose cases are always volumes, on 2-D data sets too."""


def case_of_slice(name: str) -> str:
    """The case of a slice: its name up to the last `_slice_`; the whole name where it has none."""
    return name.rpartition("_slice_")[0] or name


def case_of(info: DatasetInfo, split: str, name: str) -> str:
    """The case that a name in the list of a split stands for.

    Only 2-D data sets list slices, and only to train on; any other name is a case's, even if it
    contains `_slice_`.
    """
    if info.dims == 2 and split not in WHOLE:
        return case_of_slice(name)
    return name


def listed_path(root: Path, info: DatasetInfo, split: str, name: str) -> Path:
    """The file of a name in the list of a split."""
    if info.slice_file and split not in WHOLE:
        return root / info.slice_file.format(name)
    return info.path(root, name)


def list_faults(
    root: Path,
    info: DatasetInfo,
    lists: Mapping[str, Sequence[str]],
    unread: Collection[str] = (),
) -> list[str]:
    """A line for each name without a file, each name twice in a list and each case in two lists.

    `lists` by split: labelled, val, test ... Files of the splits `unread` may be missing. Lists for
    val and test with the same cases are one fault.
    """
    missing: list[str] = []
    faults: list[str] = []
    if lists.get("val") and set(lists["val"]) == set(lists.get("test", ())):
        faults.append(
            f"{root}: the lists for val and for test name the same cases, so a network that is "
            "chosen on one is not independent of the other; hold out other cases for one of them, "
            "or delete the list for val and train with --select test, which every result then "
            "reports"
        )
        lists = {split: names for split, names in lists.items() if split != "val"}
    split_of_case: dict[str, str] = {}
    for split, names in lists.items():
        counts = Counter(names)
        if split not in unread:
            missing += _missing_files(root, info, split=split, names=counts)
        for name, count in counts.items():
            if count > 1:
                faults.append(f"{root}: {name} is listed twice for {split}; remove one line")
        for case in dict.fromkeys(case_of(info, split, name=name) for name in counts):
            if case in split_of_case:
                faults.append(
                    f"{root}: case {case} is listed for {split_of_case[case]} and for {split}; "
                    "remove it from one"
                )
            else:
                split_of_case[case] = split
    # missing files come first: they show that the list belongs to different data
    return missing + faults


def _missing_files(root: Path, info: DatasetInfo, split: str, names: Iterable[str]) -> list[str]:
    """A line for each name without a file."""
    lines: list[str] = []
    for name in names:
        path = listed_path(root, info, split=split, name=name)
        if not path.is_file():
            lines.append(
                f"{path}: no such file, though a case list names it ({split}); put it there, or "
                "remove its line"
            )
    return lines


def check_lists(
    root: Path,
    info: DatasetInfo,
    lists: Mapping[str, Sequence[str]],
    unread: Collection[str] = (),
) -> None:
    """Raise UserError with the first fault that `list_faults` finds and the number of others."""
    check_root(root, info.name)
    faults = list_faults(root, info, lists, unread)
    if faults:
        more = ""
        if len(faults) > 1:
            more = f" (and {len(faults) - 1} more: python code/check_data.py --root_path {root})"
        raise UserError(faults[0] + more)
