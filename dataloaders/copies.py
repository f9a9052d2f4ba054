"""Copies of one scan among the cases of a data set, recognised by their contents, whatever their
names and files.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

TRAINING = ("labelled", "unlabelled", "train")
SEVERAL = 4
"""With this many cases or more, a content that all of them have is not a scan, but for example an
atlas as a channel of every case.
"""


@dataclass(frozen=True)
class Prints:
    """Fingerprints that identify a case (`dataloaders.fingerprint`). Blank images have none.

    `whole`: prints of its scans before preparation, of its volumes and of its files; one in common
    with another case makes them copies. `slices`: prints of its slices on 2-D data sets, where
    training has slices and testing has volumes; a few slices may be alike by chance, so half of the
    smaller set must be in common.
    """

    whole: frozenset[str] = field(default_factory=frozenset)
    slices: frozenset[str] = field(default_factory=frozenset)

    def __or__(self, other: "Prints") -> "Prints":
        return Prints(self.whole | other.whole, self.slices | other.slices)

    def without(self, common: frozenset[str]) -> "Prints":
        """Return the fingerprints that are not in `common`."""
        return Prints(self.whole - common, self.slices - common)

    @property
    def all(self) -> frozenset[str]:
        """All fingerprints, of volumes and of slices."""
        return self.whole | self.slices


@dataclass(frozen=True)
class ScanCase:
    """One case of a split. `place`: the file or scan that a message names."""

    split: str
    name: str
    place: str
    prints: Prints


def are_copies(first: Prints, second: Prints) -> bool:
    """Whether two cases are the same scan, see `Prints`."""
    if first.whole & second.whole:
        return True
    smaller = min(len(first.slices), len(second.slices))
    return smaller > 0 and 2 * len(first.slices & second.slices) >= smaller


def is_leak(first: str, second: str) -> bool:
    """Whether a scan must not be in both splits: training, validation and test may share none."""
    return _purpose(first) != _purpose(second)


def find_copies(cases: Sequence[ScanCase]) -> tuple[list[str], list[str]]:
    """A line for each pair of copies in splits that may share none (see `is_leak`), and for each
    other pair.
    """
    cases = without_common(cases)
    holders: dict[str, list[int]] = {}
    leaks: list[str] = []
    others: list[str] = []
    for number, case in enumerate(cases):
        candidates: set[int] = set()
        for key in case.prints.all:
            candidates.update(holders.get(key, ()))
        for candidate in sorted(candidates):
            earlier = cases[candidate]
            if not are_copies(earlier.prints, case.prints):
                continue
            line = (
                f"{case.place} ({case.split}) and {earlier.place} ({earlier.split}) "
                "are the same scan under two names"
            )
            if is_leak(earlier.split, case.split):
                leaks.append(line)
            else:
                others.append(line)
        for key in case.prints.all:
            holders.setdefault(key, []).append(number)
    return leaks, others


def without_common(cases: Sequence[ScanCase]) -> list[ScanCase]:
    """The cases without the prints that all of them have, unless a case would have none left."""
    if len(cases) < SEVERAL:
        return list(cases)
    common = frozenset.intersection(*(case.prints.all for case in cases))
    reduced = [
        ScanCase(case.split, case.name, case.place, case.prints.without(common)) for case in cases
    ]
    if all(case.prints.all for case in reduced):
        return reduced
    return list(cases)


def as_record(cases: Iterable[ScanCase]) -> list[list[Any]]:
    """The prints of the training cases as plain types, for a checkpoint."""
    return [
        [sorted(case.prints.whole), sorted(case.prints.slices)]
        for case in cases
        if case.split in TRAINING
    ]


def from_record(record: Iterable[Sequence]) -> list[Prints]:
    """The inverse of `as_record`; raises TypeError or ValueError for anything else."""
    return [Prints(frozenset(whole), frozenset(slices)) for whole, slices in record]


def merged(cases: Iterable[ScanCase]) -> list[ScanCase]:
    """One case for those with the same split and name: the slices of a case."""
    unique: dict[tuple[str, str], ScanCase] = {}
    for case in cases:
        key = (case.split, case.name)
        if key in unique:
            earlier = unique[key]
            prints = earlier.prints | case.prints
            case = ScanCase(case.split, case.name, place=earlier.place, prints=prints)
        unique[key] = case
    return list(unique.values())


def _purpose(split: str) -> str:
    if split in TRAINING:
        return "training"
    return split
