"""Faults that only all cases of a data set together show."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from datasets.checks.case_check import CaseCheck
from datasets.prepare.flips import AGREEING_SHARE, FEWEST_FOR_OUTLIERS, FEWEST_LABELS, OUTLIER_RATIO

FAR = 2
"""Times the median spacing, along any axis."""
SHOWN = 3


def check_across(
    cases: Sequence[CaseCheck], classes: Mapping[int, str], preparation: str = ""
) -> tuple[list[str], list[str]]:
    """Errors and warnings; `classes`: name by label value, without the background; `preparation`:
    the settings of plan.json as prepared files record them, empty if there is no plan.
    """
    warnings = missing_classes(cases, classes)
    warnings += labels_flipped_together(cases) or single_flipped_labels(cases)
    warnings += far_spacings(cases)
    warnings += mixed_axes(cases)
    if preparation:
        warnings += unplanned_preparations(cases, preparation)
    else:
        warnings += mixed_preparations(cases)
    return copies(cases), warnings


def copies(cases: Sequence[CaseCheck]) -> list[str]:
    """Images with the same voxels in two files or cases, whatever their names.

    A case that two lists name is reported where lists are checked.
    """
    seen: dict[str, tuple[str, CaseCheck]] = {}
    faults = []
    for case in cases:
        for path, fingerprint in case.images.items():
            if not fingerprint:
                continue
            other_path, other = seen.setdefault(fingerprint, (path, case))
            if (path, case.name) != (other_path, other.name):
                faults.append(
                    f"{path}: the same image as {other_path} ({case.split} and {other.split}); "
                    "remove one of them"
                )
    return faults


def missing_classes(cases: Sequence[CaseCheck], classes: Mapping[int, str]) -> list[str]:
    """Classes that training cannot learn: in no label that it may read."""
    count = 0
    present: set[int] = set()
    for case in cases:
        if case.voxels is not None and case.split in ("train", "labelled"):
            count += 1
            present.update(case.voxels)
    if not count:
        return []
    return [
        f"class {value} ({name}) is in none of the {count} training labels; "
        "draw it, or remove it from the classes"
        for value, name in classes.items()
        if value not in present
    ]


def _spreads(cases: Sequence[CaseCheck]) -> dict[str, Mapping[str, float]]:
    """The spreads of the cases with three axes, by name."""
    return {case.name: case.spreads for case in cases if case.spreads and len(case.spreads) == 8}


def labels_flipped_together(cases: Sequence[CaseCheck]) -> list[str]:
    """Warn if most labels fit better with the same flip, even if no single label stands out."""
    spreads = list(_spreads(cases).values())
    if len(spreads) < FEWEST_LABELS:
        return []
    counts: Counter[str] = Counter()
    for case_spreads in spreads:
        unflipped = case_spreads[""]
        counts.update(flips for flips, spread in case_spreads.items() if spread < unflipped)
    # of flips that are equally often better the first one
    best = max(spreads[0], key=lambda flips: counts[flips])
    if counts[best] < AGREEING_SHARE * len(spreads):
        return []
    return [
        f"{counts[best]} of {len(spreads)} labels fit better flipped along {', '.join(best)}: "
        "possibly images and labels went through readers that turn them differently (true labels "
        "agree on one flip in at most 9 % of cases); look at --pictures"
    ]


def single_flipped_labels(cases: Sequence[CaseCheck]) -> list[str]:
    """Warn about labels that a flip improves far more than the other labels of the data set.

    Cases that already have a warning about a flip are skipped.
    """
    spreads = _spreads([case for case in cases if not _is_reported(case)])
    if len(spreads) < FEWEST_FOR_OUTLIERS:
        return []
    best_flips: dict[str, str] = {}
    ratios: dict[str, float] = {}
    for name, case_spreads in spreads.items():
        best = min(
            (flips for flips in case_spreads if flips), key=lambda flips: case_spreads[flips]
        )
        best_flips[name] = best
        ratios[name] = case_spreads[""] / max(case_spreads[best], 1e-9)
    usual = max(float(np.quantile(list(ratios.values()), 0.95)), 1)
    return [
        f"{name}: its label fits {ratio:.1f} times better flipped along "
        f"{', '.join(best_flips[name])}, 95 % of the others no more than {usual:.1f} times; "
        "possibly it is flipped, but one label is weak evidence: look at it (--pictures)"
        for name, ratio in ratios.items()
        if ratio > OUTLIER_RATIO * usual
    ]


def _is_reported(case: CaseCheck) -> bool:
    return any("fits better flipped" in line for line in case.warnings)


def far_spacings(cases: Sequence[CaseCheck]) -> list[str]:
    """One line for cases whose spacing is far from the median, along the body's axes if known."""
    spacings: dict[str, np.ndarray] = {}
    for case in cases:
        if case.spacing_mm is not None and len(case.spacing_mm) == 3:
            spacings[case.name] = _along_body(case.spacing_mm, case.axes)
    if len(spacings) < 3:
        return []
    median = np.median(list(spacings.values()), 0)
    far = []
    for name, spacing in spacings.items():
        if (spacing > FAR * median).any() or (spacing < median / FAR).any():
            far.append(f"{name} {_size(spacing)}")
    if not far:
        return []
    more = " ..." if len(far) > SHOWN else ""
    return [
        f"spacing more than {FAR} times off the median {_size(median)} mm in {len(far)} cases: "
        f"{', '.join(far[:SHOWN])}{more}"
    ]


def _along_body(spacing_mm: Sequence[float], axes: str) -> np.ndarray:
    """Spacing from left to right, back to front, foot to head; in file order for unknown axes."""
    spacing = np.array(spacing_mm)
    if len(axes) != len(spacing):
        return spacing
    directions = ["RLAPSI".index(letter) // 2 for letter in axes]
    return spacing[np.argsort(directions)]


def _size(spacing: Sequence[float] | np.ndarray) -> str:
    return " x ".join(f"{mm:.3g}" for mm in spacing)


def mixed_axes(cases: Sequence[CaseCheck]) -> list[str]:
    """A warning where the axes of cases have different directions."""
    groups = _groups({case.name: case.axes for case in cases if case.axes})
    if len(groups) < 2:
        return []
    common, *others = groups
    shown = ", ".join(f"{len(names)} {axes} ({names[0]} ...)" for axes, names in others[:SHOWN])
    return [
        f"orientations differ: {len(common[1])} {common[0]}, {shown}; "
        "prepare_data.py turns them to one, other readers may not"
    ]


def unplanned_preparations(cases: Sequence[CaseCheck], planned: str) -> list[str]:
    """A warning where cases were prepared with settings different from those of the plan."""
    recorded = [case for case in cases if case.preparation]
    others = [case.name for case in recorded if case.preparation != planned]
    if not others:
        return []
    more = " ..." if len(others) > SHOWN else ""
    return [
        f"{len(others)} of {len(recorded)} cases were prepared with settings different from those "
        f"in plan.json: {', '.join(others[:SHOWN])}{more}; prepare all cases again with --redo"
    ]


def mixed_preparations(cases: Sequence[CaseCheck]) -> list[str]:
    """A warning where cases were prepared with different settings."""
    groups = _groups({case.name: case.preparation for case in cases if case.preparation})
    if len(groups) < 2:
        return []
    common, *others = groups
    shown = ", ".join(f"{len(names)} otherwise ({names[0]} ...)" for _, names in others[:SHOWN])
    return [
        f"settings of the preparation differ: {len(common[1])} alike, {shown}; "
        "prepare all with the same, --redo"
    ]


def _groups(values: Mapping[str, str]) -> list[tuple[str, list[str]]]:
    """The names with each value, the most frequent value first."""
    groups: dict[str, list[str]] = {}
    for name, value in values.items():
        groups.setdefault(value, []).append(name)
    return sorted(groups.items(), key=lambda group: -len(group[1]))
