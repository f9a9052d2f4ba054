"""What only the cases of a data set together tell."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from datasets.checks.case_check import CaseFound
from datasets.prepare.flips import APART, ENOUGH, MANY, MOST

FAR = 2  # times the median spacing, along any axis


def across(cases: Sequence[CaseFound], classes: Mapping[int, str]) -> tuple[list[str], list[str]]:
    """Errors and warnings; `classes`: name by label value, the background left out."""
    return twice(cases), [
        *missing_classes(cases, classes),
        *(flipped_together(cases) or flipped_alone(cases)),
        *far_spacings(cases),
        *mixed(
            cases,
            "axes",
            "orientations",
            "prepare_data.py turns them to one, other readers may not",
        ),
        *mixed(
            cases, "preparation", "settings of the preparation", "prepare all with the same, --redo"
        ),
    ]


def twice(cases: Sequence[CaseFound]) -> list[str]:
    """The same voxels in two files or cases, whatever their names; a case that two lists name is
    told by these.
    """
    seen: dict[str, tuple[str, CaseFound]] = {}
    faults = []
    for case in cases:
        for path, digest in case.images.items():
            if not digest:
                continue
            other, owner = seen.setdefault(digest, (path, case))
            if (path, case.name) != (other, owner.name):
                faults.append(
                    f"{path}: the same image as {other} ({case.split} and {owner.split}); take one "
                    "of them away"
                )
    return faults


def missing_classes(cases: Sequence[CaseFound], classes: Mapping[int, str]) -> list[str]:
    """Classes that training cannot learn: in no label that it may read."""
    labels = [
        case.voxels
        for case in cases
        if case.voxels is not None and case.split in ("train", "labelled")
    ]
    present = {value for voxels in labels for value in voxels}
    return [
        f"class {value} ({name}) is in none of the {len(labels)} training labels; draw it, or take "
        "it out of the classes"
        for value, name in classes.items()
        if labels and value not in present
    ]


def flipped_together(cases: Sequence[CaseFound]) -> list[str]:
    """Labels that were all flipped by one reader, though no case alone need be striking."""
    found = [case.spreads for case in cases if case.spreads and len(case.spreads) == 8]
    if len(found) < MANY:
        return []
    counts = {flips: sum(spreads[flips] < spreads[""] for spreads in found) for flips in found[0]}
    best = max(counts, key=counts.get)
    if counts[best] < MOST * len(found):
        return []
    return [
        f"{counts[best]} of {len(found)} labels fit better flipped along {', '.join(best)}: "
        "possibly images and labels went through "
        "readers that turn them differently (true labels agree on one flip in at most 9 % of "
        "cases); look at --pictures"
    ]


def flipped_alone(cases: Sequence[CaseFound]) -> list[str]:
    """Labels that a flip makes more even than it does the others, though too little to be striking
    in a case by itself.
    """
    found = {
        case.name: case.spreads
        for case in cases
        if case.spreads and len(case.spreads) == 8 and not _told(case)
    }
    if len(found) < ENOUGH:
        return []
    best = {
        name: min((flips for flips in spreads if flips), key=spreads.get)
        for name, spreads in found.items()
    }
    better = {name: spreads[""] / max(spreads[best[name]], 1e-9) for name, spreads in found.items()}
    usual = max(float(np.quantile(list(better.values()), 0.95)), 1)
    return [
        f"{name}: its label fits {times:.1f} times better flipped along {', '.join(best[name])}, "
        "95 % of the others no more than "
        f"{usual:.1f} times; possibly it is flipped, a single label says little: look at it "
        "(--pictures)"
        for name, times in better.items()
        if times > APART * usual
    ]


def _told(case: CaseFound) -> bool:
    return any("fits better flipped" in line for line in case.warnings)


def far_spacings(cases: Sequence[CaseFound]) -> list[str]:
    """One line for the cases whose spacing is far from the median, along the body's axes where
    these are known.
    """
    spacings = {case.name: _ordered(case) for case in cases if case.spacing_mm is not None}
    spacings = {name: spacing for name, spacing in spacings.items() if len(spacing) == 3}
    if len(spacings) < 3:
        return []
    median = np.median(list(spacings.values()), 0)
    far = {
        name: one
        for name, one in spacings.items()
        if (one > FAR * median).any() or (one < median / FAR).any()
    }
    if not far:
        return []
    shown = ", ".join(f"{name} {_size(spacing)}" for name, spacing in list(far.items())[:3])
    return [
        f"spacing more than {FAR} times off the median {_size(median)} mm in {len(far)} cases: "
        f"{shown}{' ...' if len(far) > 3 else ''}"
    ]


def _ordered(case: CaseFound) -> np.ndarray:
    """Spacing from left to right, back to front, foot to head."""
    if len(case.axes) != len(case.spacing_mm):
        return np.array(case.spacing_mm)
    return np.array(case.spacing_mm)[
        np.argsort(["RLAPSI".index(letter) // 2 for letter in case.axes])
    ]


def _size(spacing: Sequence[float]) -> str:
    return " x ".join(f"{mm:.3g}" for mm in spacing)


def mixed(cases: Sequence[CaseFound], attribute: str, what: str, advice: str) -> list[str]:
    """One line where cases differ in an attribute that they should share, with the first case of
    each rarer value.
    """
    values = {case.name: getattr(case, attribute) for case in cases if getattr(case, attribute)}
    counts = Counter(values.values()).most_common()
    if len(counts) < 2:
        return []
    rare = {
        value: next(name for name, one in values.items() if one == value) for value, _ in counts[1:]
    }
    shown = ", ".join(
        f"{count} {value if attribute == 'axes' else 'otherwise'} ({rare[value]} ...)"
        for value, count in counts[1:4]
    )
    return [
        f"{what} differ: {counts[0][1]} {counts[0][0] if attribute == 'axes' else 'alike'}, "
        f"{shown}; {advice}"
    ]
