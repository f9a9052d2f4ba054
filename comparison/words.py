"""What the page says in words: its title, what to know before quoting it, settings, versions; and the terminal's table."""

from collections.abc import Mapping, Sequence

from comparison.groups import MEAN, Group


def title(groups: Sequence[Group], dataset: str) -> str:
    names = [group.name for group in groups]
    listed = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    return (
        f"{listed} on {dataset}" if len(names) < 5 else f"{len(names)} groups of runs on {dataset}"
    )


def subtitle(numbers: Mapping) -> str:
    cases = f"{len(numbers['cases'])} cases of {numbers['split']}"
    return f"{cases}; {', '.join(numbers['classes'])}. {numbers['date'][:10]}."


def seeds(group: Group) -> str:
    found = [str(seed) for seed in group.seeds if seed is not None]
    if not found:
        return "one set of predictions"
    return f"seed {found[0]}" if len(found) == 1 else f"{len(found)} seeds: {', '.join(found)}"


def notes(groups: Sequence[Group]) -> list[str]:
    """What somebody who quotes the figures has to know."""
    found, results = [], [result for group in groups for result in group.results]
    spoilt = [
        group.name
        for group in groups
        if any(
            "too good" in one.checkpoint.get("selection", "") and not one.is_last
            for one in group.results
        )
    ]
    if spoilt:
        found.append(
            f"Selected on the test list, so that the figures are too good: {', '.join(spoilt)}. Those of --which last are not."
        )
    alone = [group.name for group in groups if len(group.results) == 1]
    if alone:
        found.append(
            f"One run each, so nothing tells what another seed would change: {', '.join(alone)}."
        )
    missed = {
        group.name: sum(one.summary["honest"]["empty_predictions"] for one in group.results)
        for group in groups
    }
    if any(missed.values()):
        counts = ", ".join(
            f"{name} {count} of {_places(group)}"
            for group, (name, count) in zip(groups, missed.items(), strict=True)
        )
        found.append(
            f"Structures that were there and not found at all: {counts}. Read the honest figures."
        )
    if any((one.values["honest"]["dice"] != one.values["honest"]["dice"]).any() for one in results):
        found.append(
            "An older metrics.csv does not hold the honest figures of empty predictions: test again to see honest differences."
        )
    return found


def differing(groups: Sequence[Group]) -> dict[str, list[str]]:
    """Settings in which a group differs from the first, with every group's value."""
    keys = dict.fromkeys(key for group in groups[1:] for key in group.differs)
    return {key: [_plain(group.traits.get(key)) for group in groups] for key in keys}


def versions(groups: Sequence[Group], about: Mapping) -> list[tuple[str, str]]:
    """Versions, commit and machine of this program and of the tests, each once."""
    found = []
    for what, one in [
        ("this page", about),
        *(("test", result.summary) for group in groups for result in group.results),
    ]:
        parts = [
            ", ".join(
                f"{name} {version}"
                for name, version in (one.get("versions") or {}).items()
                if version
            )
        ]
        if commit := one.get("git_commit"):
            parts.append(f"commit {commit[:12]}{' with changes' if '+' in commit else ''}")
        found.append((what, "; ".join([*parts, one.get("machine") or ""]).strip("; ")))
    return list(dict.fromkeys(found))


def table(numbers: Mapping) -> str:
    """What the terminal says: a line for each group."""
    width = max(38, *(len(group["name"]) for group in numbers["groups"])) + 2
    head = "honest Dice, mean over the classes"
    lines = [f"{head:<{width}}{'mean':>8}{'sd':>9}   difference (95 % interval)"]
    for group in numbers["groups"]:
        dice = group["figures"]["honest"][MEAN]["dice"]
        sd = "" if dice["sd"] is None else f"{dice['sd']:.4f}"
        line = f"  {group['name']:<{width - 2}}{dice['mean']:>8.4f}{sd:>9}"
        rows = group.get("against_first", {}).get("honest")
        if rows and (one := rows[MEAN]["dice"]):
            line += f"   {one['difference']:+.4f} ({one['low']:+.4f} to {one['high']:+.4f}), {p_value(one['p'])}"
        lines.append(line)
    return "\n".join(lines)


def p_value(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def _places(group: Group) -> int:
    first = group.results[0]
    return len(group.results) * (
        len(first.cases) * len(first.classes) - first.summary["honest"].get("absent_in_truth", 0)
    )


def _plain(value) -> str:
    return (
        "–"
        if value is None
        else " ".join(map(_plain, value))
        if isinstance(value, list)
        else str(value)
    )
