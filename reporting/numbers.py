"""All numbers of a comparison, as compare.json holds them."""

from collections.abc import Mapping, Sequence

from evaluation.results import NSD_TOLERANCE
from reporting.groups import Group, differences_to, group_scores, patient, tolerances_of
from reporting.tested_run import Result

LEVEL = 0.95


def numbers(
    groups: Sequence[Group], seed: int, draws: int, about: Mapping[str, object]
) -> dict[str, object]:
    """Collect the data set, the cases, and each group's runs, scores and differences to the first.

    `seed`, `draws`: of the bootstrap. `about`: provenance of this process.
    """
    first = groups[0].results[0]
    patients = {patient(case) for case in first.cases}
    parts = []
    for number, group in enumerate(groups):
        part: dict[str, object] = {
            "name": group.name,
            "seeds": group.seeds,
            "settings": group.traits,
            "runs": [_run(result) for result in group.results],
            "figures": group_scores(group),
        }
        if number > 0:
            part["differs"] = group.differs
            part["against_first"] = differences_to(group, groups[0], seed=seed, draws=draws)
        parts.append(part)
    return {
        "dataset": first.summary.get("dataset"),
        "split": first.summary.get("split"),
        "cases": list(first.cases),
        "classes": list(first.classes),
        NSD_TOLERANCE: tolerances_of(groups),
        "groups": parts,
        "bootstrap": {
            "draws": draws,
            "seed": seed,
            "level": LEVEL,
            "unit": "patients",
            "units": len(patients),
        },
        "wilcoxon": "two-sided signed-rank test of the patients' mean differences, "
        "zero differences omitted, not corrected for multiple comparisons",
        **about,
    }


def _run(result: Result) -> dict[str, object]:
    penalised = result.summary["honest"]
    checkpoint = result.checkpoint
    run = {
        "folder": str(result.folder),
        "seed": result.settings.get("seed"),
        "dice": penalised["mean"]["dice"],
        "empty_predictions": penalised["empty_predictions"],
        "selection": checkpoint.get("selection", "not known: predictions of another program"),
        "checkpoint": checkpoint.get("path"),
        "sha256": checkpoint.get("sha256"),
    }
    for key in ("command", "date", "versions", "git_commit", "machine"):
        run[key] = result.summary.get(key)
    return run
