"""NSD's tolerance for each class: the distance up to which two borders count as equal."""

import math
from collections.abc import Mapping, Sequence

from evaluation.masks import TOLERANCE
from utils.errors import UserError

FLAG = "--nsd_tolerance"


def class_tolerances(words: Sequence[str], class_names: Sequence[str]) -> dict[str, float]:
    """Return the tolerance of each foreground class, by its name.

    `words`: as after --nsd_tolerance. A number is the tolerance of all classes, CLASS=NUMBER that
    of one class; without a number the others have the default, `masks.TOLERANCE`. Raises UserError
    for what is neither, for a class that does not exist, and for a second value.
    """
    for_others: float | None = None
    for_class: dict[str, float] = {}
    for word in words:
        name, equals, number = word.rpartition("=")
        tolerance = _tolerance(word, number)
        if not equals:
            if for_others is not None:
                raise UserError(
                    f"{FLAG} {' '.join(words)}: has two numbers for all classes; give one, and "
                    f"CLASS=NUMBER for a class with another tolerance"
                )
            for_others = tolerance
            continue
        if name not in class_names:
            raise UserError(f"{FLAG} {word}: no such class; choose from {', '.join(class_names)}")
        if name in for_class:
            raise UserError(f"{FLAG} {word}: {name} already has a tolerance; give one")
        for_class[name] = tolerance
    if for_others is None:
        for_others = TOLERANCE
    return dict.fromkeys(class_names, for_others) | for_class


def tolerance_words(tolerance: float | Mapping[str, float] | Sequence[str]) -> tuple[str, ...]:
    """Return the words of --nsd_tolerance for a number, or for numbers by class.

    Words are returned unchanged.
    """
    if isinstance(tolerance, Mapping):
        return tuple(f"{name}={number}" for name, number in tolerance.items())
    if isinstance(tolerance, (list, tuple)):
        return tuple(tolerance)
    return (str(tolerance),)


def in_words(tolerances: Mapping[str, float], unit: str) -> str:
    """Return tolerances by class in words: "2 mm", or "1 to 3 mm" where classes differ."""
    least = min(tolerances.values())
    largest = max(tolerances.values())
    if largest > least:
        return f"{least:g} to {largest:g} {unit}"
    return f"{least:g} {unit}"


def _tolerance(word: str, number: str) -> float:
    """Return the number of a word; raise UserError unless it is a finite one from 0."""
    try:
        tolerance = float(number)
    except ValueError:
        tolerance = math.nan
    if not math.isfinite(tolerance) or tolerance < 0:
        raise UserError(
            f"{FLAG} {word}: not a distance in mm; give a number of at least 0, or CLASS=NUMBER"
        )
    return tolerance
