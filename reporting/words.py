"""Texts of the page: its title, notes for readers who quote it, settings and versions.

And the table for the terminal.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from reporting.groups import Group
from reporting.numbers import Comparison, GroupNumbers


def counted(count: int, noun: str) -> str:
    """Return a number with its noun, as 1 run and 2 runs."""
    if count == 1:
        return f"1 {noun}"
    return f"{count} {noun}s"


def title(comparison: Comparison) -> str:
    """Title of the page: the groups and the data set."""
    names = [group.name for group in comparison.groups]
    dataset = comparison.dataset
    if len(names) == 1:
        return f"{names[0]} on {dataset}"
    if len(names) < 5:
        return f"{', '.join(names[:-1])} and {names[-1]} on {dataset}"
    return f"{len(names)} groups of runs on {dataset}"


def subtitle(comparison: Comparison) -> str:
    """Number of cases, split, classes and date."""
    cases = f"{len(comparison.cases)} cases of {comparison.split}"
    return f"{cases}; {', '.join(comparison.classes)}. {comparison.about['date'][:10]}."


def seeds(group: Group) -> str:
    """The seeds of a group in words."""
    known = [str(seed) for seed in group.seeds if seed is not None]
    if not known:
        return "one set of predictions"
    if len(known) == 1:
        return f"seed {known[0]}"
    return f"{len(known)} seeds: {', '.join(known)}"


def notes(groups: Sequence[Group]) -> list[str]:
    """What a reader has to know before quoting the results."""
    lines = []
    optimistic = [group.name for group in groups if _is_selected_on_test(group)]
    if optimistic:
        lines.append(
            f"The checkpoint was selected on the test list, so these results are too good: "
            f"{', '.join(optimistic)}. Results of --which last are not affected."
        )
    single = [group.name for group in groups if len(group.results) == 1]
    if single:
        lines.append(f"With only one run, the spread over seeds is not known: {', '.join(single)}.")
    missed = [_missed(group) for group in groups]
    if any(count > 0 for count, _ in missed):
        counts = [
            f"{group.name} {count} of {total}"
            for group, (count, total) in zip(groups, missed, strict=True)
        ]
        lines.append(
            f"Structures that were missed completely (empty prediction): {', '.join(counts)}. "
            f"Read the penalised results."
        )
    if any(_has_unknown_scores(group) for group in groups):
        lines.append(
            "An older metrics.csv does not hold the penalised scores of empty predictions; "
            "test again to see penalised differences."
        )
    return lines


def differing(groups: Sequence[Group]) -> dict[str, list[str]]:
    """Settings in which any group differs from the first, with every group's value."""
    table: dict[str, list[str]] = {}
    for group in groups[1:]:
        for key in group.differs:
            table[key] = [_plain(one.traits.get(key)) for one in groups]
    return table


def versions(groups: Sequence[Group], about: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Versions, commit and machine of this program and of the tests, each combination once."""
    lines = [("this page", _version(about))]
    for group in groups:
        for result in group.results:
            lines.append(("test", _version(result.summary)))
    return list(dict.fromkeys(lines))


def table(groups: Sequence[GroupNumbers]) -> str:
    """The table for the terminal: one line per group."""
    longest = max(len(group.name) for group in groups)
    width = max(38, longest) + 2
    head = "penalised Dice, mean over the classes"
    lines = [f"{head:<{width}}{'mean':>8}{'sd':>9}   difference (95 % interval)"]
    for group in groups:
        lines.append(_table_line(group, width))
    return "\n".join(lines)


def p_value(value: float) -> str:
    """A p value with three decimals."""
    if value < 0.001:
        return "p < 0.001"
    return f"p = {value:.3f}"


def _table_line(group: GroupNumbers, width: int) -> str:
    dice = group.main_dice
    sd = ""
    if dice.sd is not None:
        sd = f"{dice.sd:.4f}"
    line = f"  {group.name:<{width - 2}}{dice.mean:>8.4f}{sd:>9}"
    one = group.main_difference
    if one is None:
        return line
    interval = f"{one.low:+.4f} to {one.high:+.4f}"
    return f"{line}   {one.difference:+.4f} ({interval}), {p_value(one.p)}"


def _is_selected_on_test(group: Group) -> bool:
    """Whether the tested checkpoint of a run was selected on the test list."""
    return any(result.is_selected_on_test for result in group.results)


def _missed(group: Group) -> tuple[int, int]:
    """How many structures that exist have an empty prediction, and how many exist, over all runs of
    the group.
    """
    missed = sum(result.summary["honest"]["empty_predictions"] for result in group.results)
    first = group.results[0]
    absent = first.summary["honest"].get("absent_in_truth", 0)
    present = len(first.cases) * len(first.classes) - absent
    return missed, len(group.results) * present


def _has_unknown_scores(group: Group) -> bool:
    return any(np.isnan(result.values["honest"]["dice"]).any() for result in group.results)


def _version(about: Mapping[str, Any]) -> str:
    parts = []
    packages = about.get("versions") or {}
    known = [f"{name} {version}" for name, version in packages.items() if version]
    if known:
        parts.append(", ".join(known))
    commit = about.get("git_commit")
    if commit:
        changes = " with changes" if "+" in commit else ""
        parts.append(f"commit {commit[:12]}{changes}")
    machine = about.get("machine")
    if machine:
        parts.append(machine)
    return "; ".join(parts)


def _plain(value: object) -> str:
    """A setting's value as the page shows it."""
    if value is None:
        return "–"
    if isinstance(value, list):
        return " ".join(_plain(item) for item in value)
    return str(value)
