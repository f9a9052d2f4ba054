"""What is wrong with a data set's lists, before any image is read."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from dataloaders.facts import DatasetFacts
from dataloaders.hdf5 import check_root
from utils.errors import UserError

WHOLE = ("val", "test")  # splits whose cases are always volumes, on 2-D data sets too


def case_of_slice(name: str) -> str:
    """The case that a slice is of: its name up to the last `_slice_`; the whole name where it has none."""
    return name.rpartition("_slice_")[0] or name


def case_of(facts: DatasetFacts, split: str, name: str) -> str:
    """The case that a name in the list of a split stands for.

    Only 2-D data sets list slices, and only to train on; any other name is a case's own, even one that holds `_slice_`.
    """
    if facts.dims == 2 and split not in WHOLE:
        return case_of_slice(name)
    return name


def listed_path(root: Path, facts: DatasetFacts, split: str, name: str) -> Path:
    """The file of a name in the list of a split."""
    return (
        root / facts.slice_file.format(name)
        if facts.slice_file and split not in WHOLE
        else facts.path(root, name)
    )


def cheap_check(
    root: Path,
    facts: DatasetFacts,
    lists: Mapping[str, Sequence[str]],
    unread: Collection[str] = (),
) -> list[str]:
    """A line for each name twice in a list, each case in two and each name without a file; `lists` by split: labelled, val, test ...
    Of the splits `unread` files may be missing. Lists for val and test that name the same cases are one fault."""
    gone, faults, seen = [], [], {}
    if lists.get("val") and set(lists["val"]) == set(lists.get("test", ())):
        faults.append(
            f"{root}: the lists for val and for test name the same cases, what is chosen on one has seen the other; hold out others, or "
            "train with --select test, which every result then says, without the list for val"
        )
        lists = {split: names for split, names in lists.items() if split != "val"}
    for split, names in lists.items():
        counts = Counter(names)
        there = counts if split not in unread else ()
        paths = [
            path
            for path in (listed_path(root, facts, split, name) for name in there)
            if not path.is_file()
        ]
        gone += [
            f"{path}: no such file, though a case list names it ({split}); put it there, or take its line away"
            for path in paths
        ]
        faults += [
            f"{root}: {name} is listed twice for {split}; take one line away"
            for name, count in counts.items()
            if count > 1
        ]
        cases = dict.fromkeys(case_of(facts, split, name) for name in counts)
        faults += [
            f"{root}: case {case} is listed for {seen[case]} and for {split}; take it out of one"
            for case in cases
            if case in seen
        ]
        seen = {**dict.fromkeys(cases, split), **seen}
    return gone + faults  # a list of other data is known by its missing files


def check_lists(
    root: Path,
    facts: DatasetFacts,
    lists: Mapping[str, Sequence[str]],
    unread: Collection[str] = (),
) -> None:
    """Raises UserError with the first fault that `cheap_check` finds, and how many more there are."""
    check_root(root, facts.name)
    faults = cheap_check(root, facts, lists, unread)
    if faults:
        more = (
            f" (and {len(faults) - 1} more: python code/check_data.py --root_path {root})"
            if len(faults) > 1
            else ""
        )
        raise UserError(faults[0] + more)
