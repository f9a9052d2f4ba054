"""Warnings about classes that a stage loses: they vanish from the pseudo labels, or their
validation Dice stays 0.

Both are judged from numbers that the loop reads anyway.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from methods.base import Validation, class_scalar
from methods.stage_networks import PSEUDO_SHARE

SHORTEST_ABSENCE = 100
"""Iterations without a voxel of a class in the pseudo labels before a warning, in a short stage."""
ABSENCE_SHARE = 20
"""In a longer stage: one part in this many of its iterations."""
VALIDATIONS = 5
"""Validations in a row with Dice 0 before a warning."""


@dataclass(frozen=True)
class WatchedClasses:
    """The foreground classes that a run should find.

    `labelled`: names by class number of those that the labelled cases have. `validated`: names of
    those that the validation cases have.
    """

    labelled: Mapping[int, str] = field(default_factory=dict[int, str])
    validated: Sequence[str] = ()


class ClassWatch:
    """Watches the classes of one stage of `steps` iterations; warns once about each."""

    def __init__(self, classes: WatchedClasses, steps: int) -> None:
        self._classes = classes
        self._longest_absence = max(SHORTEST_ABSENCE, steps // ABSENCE_SHARE)
        self._absence = dict.fromkeys(classes.labelled, 0)

    def look_at_step(self, scalars: Mapping[str, float]) -> list[str]:
        """Return the warnings after a step with these scalars.

        A class counts as absent from a step if its share of the pseudo labels is 0.
        """
        warnings: list[str] = []
        for number, name in self._classes.labelled.items():
            share = scalars.get(f"{PSEUDO_SHARE}{number}")
            if share is None or self._absence[number] > self._longest_absence:
                continue  # no pseudo labels, or warned already
            if share > 0:
                self._absence[number] = 0
                continue
            self._absence[number] += 1
            if self._absence[number] == self._longest_absence:
                self._absence[number] += 1
                warnings.append(
                    f"warning: {name}: not in the pseudo labels of the last "
                    f"{self._longest_absence} iterations, although labelled cases have it; "
                    "pre-train longer (--pre_iterations) or see docs/data.md#many-classes"
                )
        return warnings

    def look_at_validations(self, history: Sequence[Mapping[str, Any]]) -> list[str]:
        """Return the warnings after the last of the validations in `history`."""
        return [
            f"warning: {name}: validation Dice 0 in the last {VALIDATIONS} validations, although "
            "validation cases have it; see docs/data.md#many-classes"
            for name in self._classes.validated
            if _is_lost_now(history, class_scalar("dice", name))
        ]


def _is_lost_now(history: Sequence[Mapping[str, Any]], key: str) -> bool:
    """Whether the last validations have Dice 0, and no earlier ones in a row had."""
    zeros = 0
    for entry in history:
        if entry.get(key) == 0:
            zeros += 1
        else:
            zeros = 0
        if zeros == VALIDATIONS:
            return entry is history[-1]
    return False


def class_dice_line(result: Validation) -> str:
    """Return the Dice of each foreground class in words, empty where there is only one."""
    if len(result.class_dice) < 2:
        return ""
    values = [f"{name} {dice:.4f}" for name, dice in result.class_dice.items()]
    return f"val Dice by class: {', '.join(values)}"
