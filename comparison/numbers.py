"""All numbers of a comparison, as compare.json has them."""

from collections.abc import Sequence

from comparison.groups import Group, against, figures, patient
from comparison.results import Result

LEVEL = 0.95


def numbers(groups: Sequence[Group], seed: int, draws: int, about: dict) -> dict:
    """What is tested, each group with its runs and figures, all but the first with their differences to it, and how those were made."""
    first = groups[0].results[0]
    patients = len({patient(case) for case in first.cases})
    found = []
    for number, group in enumerate(groups):
        part = {
            "name": group.name,
            "seeds": group.seeds,
            "settings": group.traits,
            "runs": [_run(result) for result in group.results],
        }
        part["figures"] = figures(group)
        if number:
            part |= {
                "differs": group.differs,
                "against_first": against(group, groups[0], seed, draws),
            }
        found.append(part)
    return {
        "dataset": first.summary.get("dataset"),
        "split": first.summary.get("split"),
        "cases": list(first.cases),
        "classes": list(first.classes),
        "groups": found,
        "bootstrap": {
            "draws": draws,
            "seed": seed,
            "level": LEVEL,
            "unit": "patients",
            "units": patients,
        },
        "wilcoxon": "two-sided signed-rank test of the patients' mean differences, those without difference left out, not corrected",
        **about,
    }


def _run(result: Result) -> dict:
    honest = result.summary["honest"]
    return {
        "folder": str(result.folder),
        "seed": result.settings.get("seed"),
        "dice": honest["mean"]["dice"],
        "empty_predictions": honest["empty_predictions"],
        "selection": result.checkpoint.get(
            "selection", "not known: predictions of another program"
        ),
        "checkpoint": result.checkpoint.get("path"),
        "sha256": result.checkpoint.get("sha256"),
        **{
            key: result.summary.get(key)
            for key in ("command", "date", "versions", "git_commit", "machine")
        },
    }
