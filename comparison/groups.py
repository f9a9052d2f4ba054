"""Runs that differ in their seed alone, put together; what sets the groups apart; their figures, and how they differ from the first."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from comparison.results import CONVENTIONS, Result
from methods.registry import run_title
from programs.settings import default_settings
from recipes.registry import pages
from utils.errors import UserError
from utils.statistics import bootstrap_interval, by_patient, mean_sd, wilcoxon_p

MEAN = "mean"  # the row of the mean over the classes
UNLIKE = ("seed", "exp")  # settings in which the runs of one group may differ


@dataclass(frozen=True, eq=False)
class Group:
    """`traits`: settings, and how the test was done, that all its runs have in common; `differs`: those that the first group has
    otherwise, with its own values."""

    name: str
    results: tuple[Result, ...]
    traits: Mapping[str, object]
    differs: Mapping[str, object]

    @property
    def seeds(self) -> list[int | None]:
        return [result.settings.get("seed") for result in self.results]

    def per_case(self, convention: str, figure: str) -> np.ndarray:
        """Mean over the seeds, (cases, 1 + classes), the mean over the classes first."""
        values = np.mean([result.values[convention][figure] for result in self.results], axis=0)
        return np.column_stack([values.mean(1), values])


def make_groups(results: Sequence[Result], names: Sequence[str] = ()) -> list[Group]:
    """The groups in the order of their first runs. UserError for runs tested on other cases or classes, or named twice."""
    results = [results[0], *(_same_cases(results[0], other) for other in results[1:])]
    together: dict[str, list[Result]] = {}
    for number, result in enumerate(results):
        together.setdefault(
            repr(sorted(_traits(result).items())) if result.settings else f"{number}", []
        ).append(result)
    for some in together.values():
        _check_seeds(some)
    if names and len(names) != len(together):
        found = "; ".join(" ".join(str(one.folder) for one in some) for some in together.values())
        raise UserError(
            f"--names: {len(names)} names for {len(together)} groups ({found}); give one each"
        )
    first = _traits(next(iter(together.values()))[0])
    traits = [_traits(some[0]) for some in together.values()]
    differing = [_differing(one, first) for one in traits]
    names = list(names) or _names(list(together.values()), differing)
    return [
        Group(*parts)
        for parts in zip(names, map(tuple, together.values()), traits, differing, strict=True)
    ]


def figures(group: Group) -> dict:
    """Of each convention: mean and sd over the seeds, and the seeds' own values, of every figure, for the mean over the classes and for
    each class. None where the spacing is unknown."""
    found: dict[str, dict | None] = {}
    for convention in CONVENTIONS:
        parts = [result.means(convention) for result in group.results]
        if any(part is None for part in parts):
            found[convention] = None
            continue
        rows = [{MEAN: part["mean"], **part["classes"]} for part in parts]
        found[convention] = {
            row: {
                figure: _over_seeds([one[row][figure] for one in rows]) for figure in rows[0][row]
            }
            for row in rows[0]
        }
    return found


def against(group: Group, first: Group, seed: int, draws: int) -> dict:
    """The paired differences group - first of each convention, class and figure: per case the mean over the seeds, then mean, bootstrap
    interval over the patients and Wilcoxon's p. None where cases' figures are not known."""
    patients = [patient(case) for case in first.results[0].cases]
    found: dict[str, dict] = {}
    for convention, columns in CONVENTIONS.items():
        rows: dict[str, dict] = {name: {} for name in (MEAN, *first.results[0].classes)}
        for figure in columns:
            differences = group.per_case(convention, figure) - first.per_case(convention, figure)
            for name, column in zip(rows, differences.T, strict=True):
                rows[name][figure] = (
                    None if np.isnan(column).any() else _difference(column, patients, seed, draws)
                )
        known = any(one for row in rows.values() for one in row.values())
        found[convention] = rows if known else None
    return found


def patient(case: str) -> str:
    """Whose case it is: two frames of a heart (ACDC's `patient001_frame01` and `patient001_frame02`) do not speak for two patients."""
    return re.sub(r"_frame\d+$", "", case)


def _difference(column: np.ndarray, patients: Sequence[str], seed: int, draws: int) -> dict:
    low, high = bootstrap_interval(column, seed, draws, patients=patients)
    sums, counts = by_patient(column, patients)
    p = wilcoxon_p(sums / counts)
    return {
        "difference": float(column.mean()),
        "low": low,
        "high": high,
        "p": p,
        "cases": len(column),
        "patients": len(sums),
    }


def _over_seeds(values: Sequence[float]) -> dict:
    mean, sd = mean_sd(values)
    return {"mean": mean, "sd": sd, "values": list(values)}


def _same_cases(first: Result, other: Result) -> Result:
    """`other` with its cases in the order of `first`; UserError where they are not the same ones."""
    apart = sorted(set(first.cases) ^ set(other.cases))
    if apart:
        having, lacking = (first, other) if apart[0] in first.cases else (other, first)
        raise UserError(
            f"{other.folder}: tested on other cases than {first.folder} ({len(apart)} differ; {apart[0]} is in {having.folder} and not in "
            f"{lacking.folder}); compare runs that were tested on one list"
        )
    if first.classes != other.classes:
        raise UserError(
            f"{other.folder}: classes {', '.join(other.classes)}, but {first.folder} has {', '.join(first.classes)}; compare others"
        )
    if first.summary.get("dataset") != other.summary.get("dataset"):
        raise UserError(
            f"{other.folder}: of {other.summary.get('dataset')}, but {first.folder} is of {first.summary.get('dataset')}; compare others"
        )
    order = [other.cases.index(case) for case in first.cases]
    values = {
        name: {figure: array[order] for figure, array in part.items()}
        for name, part in other.values.items()
    }
    return Result(other.folder, other.summary, first.cases, first.classes, values)


def _traits(result: Result) -> dict:
    """What decides about a result but for the seed; older settings are filled up with what they then were."""
    if not result.settings:
        return (
            {"checkpoint": result.checkpoint.get("sha256", str(result.folder))[:12]}
            if result.checkpoint
            else {"predictions": str(result.folder)}
        )
    settings = _filled(result)
    tested = {
        key: result.summary[key] for key in ("stride", "largest_component") if key in result.summary
    }
    size = result.summary.get("patch_size")
    tested |= (
        {"patch_size": size}
        if size and list(size) != list(settings.get("patch_size", size))
        else {}
    )
    traits = {key: value for key, value in settings.items() if key not in UNLIKE}
    return (
        traits
        | {"stage": result.stage, "checkpoint": "last" if result.is_last else "best"}
        | {f"test_{k}": v for k, v in tested.items()}
    )


def _filled(result: Result) -> dict:
    settings = dict(result.settings)
    for kind in ("PAGE", "TWO_SLICES"):
        page = pages(kind).get(result.summary.get("dataset"))
        if page and "method" in settings and "model" in settings:
            try:
                return (
                    default_settings(page, settings["method"], settings["model"]).computed()
                    | settings
                )
            except UserError:
                continue
    return settings


def _check_seeds(results: Sequence[Result]) -> None:
    """UserError where two runs of a group have one seed: the same run, or one that repeats it."""
    seen: dict[object, Result] = {}
    for result in results:
        seed = result.settings.get("seed") if result.settings else result.folder
        if seed in seen:
            raise UserError(
                f"{result.folder}: the same settings and seed ({seed}) as {seen[seed].folder}; name each run once"
            )
        seen[seed] = result


def _differing(traits: Mapping, first: Mapping) -> dict:
    return {
        key: traits.get(key)
        for key in dict.fromkeys((*traits, *first))
        if traits.get(key) != first.get(key)
    }


def _names(groups: Sequence[Sequence[Result]], differing: Sequence[Mapping]) -> list[str]:
    """Of each group its method in words; where several have the same one, their experiment or a setting in which they differ too."""
    titles = [_title(results) for results in groups]
    bases = [_common_base(results) for results in groups]
    names: list[str] = []
    for title, base, differs in zip(titles, bases, differing, strict=True):
        name = title
        if titles.count(title) > 1 and base not in (title, None):
            name = f"{title} ({base})"
        if name in names:
            some = ", ".join(f"{key} {value}" for key, value in list(differs.items())[:2])
            name = f"{title} ({some})"
        if name in names or name == f"{title} ()":
            name = f"{title} ({len(names) + 1})"
        names.append(name)
    return names


def _title(results: Sequence[Result]) -> str:
    """What a group is called: its method, or for predictions of other programs their folder."""
    first = results[0]
    if first.settings:
        return run_title(first.settings)
    method = first.checkpoint.get("method")
    return method if isinstance(method, str) else _base(first)


def _common_base(results: Sequence[Result]) -> str | None:
    """The name of the experiment without the seed where a group's runs agree in it."""
    bases = {_base(result) for result in results}
    return bases.pop() if len(bases) == 1 else None


def _base(result: Result) -> str:
    if not result.settings.get("exp"):
        return (
            result.folder.parent.name
            if result.folder.name in ("predictions", "scores", "last")
            else result.folder.name
        )
    return (
        re.sub(rf"[_-]?(seed)?[_-]?{result.settings.get('seed')}$", "", result.settings["exp"])
        or result.settings["exp"]
    )
