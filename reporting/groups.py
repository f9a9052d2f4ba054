"""Group runs that differ only in their seed, and compare each group with the first one."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from datasets.own import data_set_name
from datasets.registry import all_datasets
from datasets.resolve import default_config
from evaluation.metrics import Unit, metrics_in
from evaluation.results import PREDICTED_WITH, convention_columns
from evaluation.settings import EvaluationSettings
from methods.registry import run_title
from reporting.scores import MetricSummary, PairedDifference, paired_difference, summarise_seeds
from reporting.tested_run import Result
from utils.errors import UserError
from utils.names import MEAN_OF_CLASSES

SEED_SETTINGS = ("seed", "exp")
"""Settings in which runs of one method with different seeds may differ."""
Summaries: TypeAlias = Mapping[str, Mapping[str, MetricSummary | None]]
"""Of one convention, by row and metric. None for a metric that is newer than a test."""
Differences: TypeAlias = Mapping[str, Mapping[str, PairedDifference | None]]
"""Of one convention, by row and metric. None where scores of single cases are not known."""


@dataclass(frozen=True, eq=False)
class Group:
    """Runs that differ only in their seed.

    `traits`: settings of training and test that all its runs share. `differs`: the traits in which
    it differs from the first group, with this group's values.
    """

    name: str
    results: tuple[Result, ...]
    traits: Mapping[str, object]
    differs: Mapping[str, object]

    @property
    def seeds(self) -> list[int | None]:
        """The seed of each run, None for predictions of another program."""
        return [result.settings.get("seed") for result in self.results]

    def per_case(self, convention: str, metric: str) -> np.ndarray:
        """Mean over the seeds, (cases, 1 + classes).

        The first column is the mean over the classes.
        """
        values = np.mean([result.values[convention][metric] for result in self.results], axis=0)
        return np.column_stack([values.mean(1), values])


def make_groups(results: Sequence[Result], names: Sequence[str] = ()) -> list[Group]:
    """Group the results, in the order of each group's first run.

    Raises UserError for runs with different test cases, classes or tolerances of NSD, and for a run
    that is given twice.
    """
    first = results[0]
    same_order = [first]
    for result in results[1:]:
        _check_same_test(first, result)
        same_order.append(_reordered(result, first.cases))
    _check_tolerances(same_order)
    members = _members(same_order)
    for runs in members:
        _check_seeds(runs)
    traits = [_traits(runs[0]) for runs in members]
    differing = [_differing(one, traits[0]) for one in traits]
    if names:
        _check_names(names, members)
        group_names = list(names)
    else:
        group_names = _names(members, differing)
    groups = []
    for number, runs in enumerate(members):
        group = Group(
            name=group_names[number],
            results=tuple(runs),
            traits=traits[number],
            differs=differing[number],
        )
        groups.append(group)
    return groups


def group_scores(group: Group) -> dict[str, Summaries | None]:
    """Mean, standard deviation and values over the seeds, by convention, row and metric.

    The rows are the mean over the classes and each class. A convention is None where the
    spacing is unknown.
    """
    scores: dict[str, Summaries | None] = {}
    for convention in convention_columns():
        scores[convention] = None
        means = [result.means(convention) for result in group.results]
        rows = [
            {MEAN_OF_CLASSES: one["mean"], **one["classes"]} for one in means if one is not None
        ]
        if len(rows) == len(means):
            unit: Unit = "mm" if convention == "honest_mm" else "voxel"
            metrics = [metric.key(unit) for metric in metrics_in(unit)]
            scores[convention] = _rows_over_seeds(rows, metrics)
    return scores


def differences_to(
    group: Group, first: Group, seed: int, draws: int
) -> dict[str, Differences | None]:
    """Paired differences group - first: by convention, row and metric.

    Per case the mean over the seeds; of these the mean, a bootstrap interval over the patients, and
    Wilcoxon's p. None where the scores of single cases are not known.
    """
    patients = [patient(case) for case in first.results[0].cases]
    names = (MEAN_OF_CLASSES, *first.results[0].classes)
    by_convention: dict[str, Differences | None] = {}
    for convention, columns in convention_columns().items():
        rows: dict[str, dict[str, PairedDifference | None]] = {name: {} for name in names}
        is_known = False
        for metric in columns:
            differences = group.per_case(convention, metric) - first.per_case(convention, metric)
            for name, column in zip(names, differences.T, strict=True):
                if np.isnan(column).any():
                    rows[name][metric] = None
                    continue
                is_known = True
                rows[name][metric] = paired_difference(column, patients, seed=seed, draws=draws)
        by_convention[convention] = rows if is_known else None
    return by_convention


def patient(case: str) -> str:
    """Patient of a case.

    ACDC's `patient001_frame01` and `patient001_frame02` are two phases of one heart.
    """
    return re.sub(r"_frame\d+$", "", case)


def _rows_over_seeds(
    rows: Sequence[Mapping[str, Mapping[str, float]]], metrics: Sequence[str]
) -> Summaries:
    """Summarise the rows of each seed, by row and metric.

    None for a metric that a summary.json lacks: it was written before the metric existed.
    """
    summaries: dict[str, dict[str, MetricSummary | None]] = {}
    for name in rows[0]:
        summaries[name] = {}
        for metric in metrics:
            values = [row[name][metric] for row in rows if metric in row[name]]
            summaries[name][metric] = None
            if len(values) == len(rows):
                summaries[name][metric] = summarise_seeds(values)
    return summaries


def _check_same_test(first: Result, other: Result) -> None:
    """Raise UserError where two results are not of the same cases, classes, data set and files."""
    apart = sorted(set(first.cases) ^ set(other.cases))
    if apart:
        having = first
        lacking = other
        if apart[0] not in first.cases:
            having, lacking = lacking, having
        raise UserError(
            f"{other.folder}: tested on cases different from those of {first.folder} "
            f"({len(apart)} differ; {apart[0]} is in {having.folder} and not in {lacking.folder}); "
            f"compare runs that were tested on the same list"
        )
    if first.classes != other.classes:
        raise UserError(
            f"{other.folder}: classes {', '.join(other.classes)}, but {first.folder} has "
            f"{', '.join(first.classes)}; compare runs with the same classes"
        )
    dataset = other.summary.get("dataset") or ""
    first_dataset = first.summary.get("dataset") or ""
    # code/evaluate.py records the name in dataset.json, which may have spaces
    if data_set_name(first_dataset) != data_set_name(dataset):
        raise UserError(
            f"{other.folder}: is a test on {dataset}, but {first.folder} one on {first_dataset}; "
            f"compare runs on the same data set"
        )
    data = other.made_with.get("data")
    first_data = first.made_with.get("data")
    if data and first_data and data != first_data:
        raise UserError(
            f"{other.folder}: the tested files differ from those of {first.folder}, although their "
            f"names are the same; test both runs on the same data"
        )


def _check_tolerances(results: Sequence[Result]) -> None:
    """Raise UserError where two results have NSD at different tolerances."""
    known = [result for result in results if result.tolerances is not None]
    for result in known[1:]:
        if result.tolerances != known[0].tolerances:
            raise UserError(
                f"{result.folder}: NSD's tolerances are {_listed(result)}, but {known[0].folder} "
                f"has {_listed(known[0])}; test or score both with the same --nsd_tolerance"
            )


def _listed(result: Result) -> str:
    tolerances = result.tolerances or {}
    return ", ".join(f"{name} {tolerance:g}" for name, tolerance in tolerances.items())


def tolerances_of(groups: Sequence[Group]) -> Mapping[str, float] | None:
    """NSD's tolerance of each class, which all groups share; None if all tests are older than
    NSD."""
    for group in groups:
        for result in group.results:
            if result.tolerances is not None:
                return result.tolerances
    return None


def _reordered(result: Result, cases: Sequence[str]) -> Result:
    """The same result with its cases in the given order."""
    order = [result.cases.index(case) for case in cases]
    values: dict[str, dict[str, np.ndarray]] = {}
    for convention, metrics in result.values.items():
        values[convention] = {metric: array[order] for metric, array in metrics.items()}
    return replace(result, cases=tuple(cases), values=values)


def _members(results: Sequence[Result]) -> list[list[Result]]:
    """The runs of each group.

    Predictions of other programs have no settings, so each is a group of its own.
    """
    members: dict[str, list[Result]] = {}
    for number, result in enumerate(results):
        key = str(number)
        if result.settings:
            key = repr(sorted(_traits(result).items()))
        members.setdefault(key, []).append(result)
    return list(members.values())


def _traits(result: Result) -> dict[str, object]:
    """Everything that a result depends on except the seed.

    Settings that older versions lacked get the values they then had.
    """
    if not result.settings:
        if result.checkpoint:
            return {"checkpoint": result.checkpoint.get("sha256", str(result.folder))[:12]}
        return {"predictions": str(result.folder)}
    settings = _complete_settings(result)
    traits = {key: value for key, value in settings.items() if key not in SEED_SETTINGS}
    traits["stage"] = result.stage
    traits["checkpoint"] = "last" if result.is_last else "best"
    for key in ("stride", "largest_component"):
        if key in result.summary:
            traits[f"test_{key}"] = result.summary[key]
    for key in ("blend", "interpolation"):
        published = getattr(EvaluationSettings, key)
        traits[f"test_{key}"] = result.summary.get(key, published)
    if "amp" in result.summary:
        traits["test_amp"] = result.summary["amp"]
    if "network" in result.summary:
        traits["test_network"] = result.summary["network"]
    for key, value in result.summary.get(PREDICTED_WITH, {}).items():
        traits[f"predict_{key}"] = value
    size = result.summary.get("patch_size")
    if size and list(size) != list(settings.get("patch_size", size)):
        traits["test_patch_size"] = size
    return traits


def _complete_settings(result: Result) -> dict[str, Any]:
    """The run's settings, completed by the data set's defaults."""
    settings = dict(result.settings)
    if "method" not in settings or "model" not in settings:
        return settings
    name = result.summary.get("dataset", "")
    for kind in ("DATASET", "TWO_SLICES"):
        dataset = all_datasets(kind).get(name)
        if dataset is None:
            continue
        try:
            defaults = default_config(dataset, method=settings["method"], model=settings["model"])
        except UserError:
            continue
        return defaults.computed() | settings
    return settings


def _check_seeds(results: Sequence[Result]) -> None:
    """Raise UserError if two runs of a group have the same seed.

    One run was named twice, or is a repetition of the other.
    """
    seen: dict[object, Result] = {}
    for result in results:
        seed = result.settings.get("seed") if result.settings else result.folder
        if seed in seen:
            raise UserError(
                f"{result.folder}: the same settings and seed ({seed}) as {seen[seed].folder}; "
                f"name each run once"
            )
        seen[seed] = result


def _check_names(names: Sequence[str], members: Sequence[Sequence[Result]]) -> None:
    """Raise UserError unless --names has one name per group."""
    if len(names) == len(members):
        return
    folders: list[str] = []
    for runs in members:
        folders.append(" ".join(str(result.folder) for result in runs))
    raise UserError(
        f"--names: {len(names)} names for {len(members)} groups ({'; '.join(folders)}); "
        f"give one name per group"
    )


def _differing(traits: Mapping[str, object], first: Mapping[str, object]) -> dict[str, object]:
    """The traits that are not those of the first group."""
    differing = {}
    for key in dict.fromkeys((*traits, *first)):
        if traits.get(key) != first.get(key):
            differing[key] = traits.get(key)
    return differing


def _names(
    groups: Sequence[Sequence[Result]], differing: Sequence[Mapping[str, object]]
) -> list[str]:
    """Name each group by its method.

    Where several have the same method, also by the experiment or by settings that differ.
    """
    titles = [_title(results) for results in groups]
    bases = [_common_base(results) for results in groups]
    names: list[str] = []
    for title, base, differs in zip(titles, bases, differing, strict=True):
        name = title
        if titles.count(title) > 1 and base not in (title, None):
            name = f"{title} ({base})"
        if name in names:
            settings = ", ".join(f"{key} {value}" for key, value in list(differs.items())[:2])
            name = f"{title} ({settings})"
        if name in names or name == f"{title} ()":
            name = f"{title} ({len(names) + 1})"
        names.append(name)
    return names


def _title(results: Sequence[Result]) -> str:
    """The method of a group; for predictions of other programs the name of their folder."""
    first = results[0]
    if first.settings:
        return run_title(first.settings)
    method = first.checkpoint.get("method")
    if isinstance(method, str):
        return method
    return _base(first)


def _common_base(results: Sequence[Result]) -> str | None:
    """Name of the experiment without the seed, None where the group's runs do not share it."""
    bases = {_base(result) for result in results}
    if len(bases) == 1:
        return bases.pop()
    return None


def _base(result: Result) -> str:
    """Name of the experiment without the seed; without settings, the name of the folder."""
    experiment = result.settings.get("exp")
    if experiment:
        seed = result.settings.get("seed")
        return re.sub(rf"[_-]?(seed)?[_-]?{seed}$", "", experiment) or experiment
    if result.folder.name in ("predictions", "scores", "last"):
        return result.folder.parent.name
    return result.folder.name
