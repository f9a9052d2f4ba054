"""Check that the content of a summary.json has the right types; each error names the key."""

import math
from collections.abc import Mapping, Sequence

from evaluation.results import NSD_TOLERANCE, PREDICTED_WITH

LARGEST = 2**63
LONGEST = 4000  # characters of a text
DEEPEST = 8  # levels of nesting
NULLABLE_TEXTS = ("root_path", "command", "date", "machine", "git_commit")
TEXTS = ("dataset", "split", "predictions", "labels", "metrics_sha256")
ABOUT_CHECKPOINT = ("path", "sha256", "selection", "method")
SETTING_TEXTS = ("method", "model", "exp", "egm")
COUNTS = ("empty_predictions", "absent_in_truth")
UNITS = {"as_published": "voxel", "honest": "voxel", "millimetres": "mm"}


def check_summary(summary: Mapping[str, object], classes: Sequence[str]) -> None:
    """Raise ValueError unless everything that compare.py and report.py read of a summary.json has
    the right type.

    `classes`: those of metrics.csv.
    """
    _check_plain(summary, "")
    _check_entries(summary)
    _check_count(summary["cases"], "cases")
    _check_texts(summary.get("versions") or {}, "versions", nullable=True)
    _check_texts(summary.get("prediction_sha256", {}), "prediction_sha256", nullable=False)
    _check_label_values(summary)
    _check_tolerances(summary.get(NSD_TOLERANCE), classes)
    _check_checkpoint(summary.get("checkpoint"))
    _check_mapping(summary.get(PREDICTED_WITH, {}), PREDICTED_WITH)
    _check_means(summary["as_published"], "as_published", classes=classes)
    _check_penalised(summary["honest"], classes)


def _check_entries(summary: Mapping[str, object]) -> None:
    """Check the texts and sizes of the first level."""
    for key in TEXTS:
        if key in summary:
            _check_text(summary[key], key)
    for key in NULLABLE_TEXTS:
        if summary.get(key) is not None:
            _check_text(summary[key], key)
    for key in ("patch_size", "stride"):
        if summary.get(key) is not None:
            _check_sizes(summary[key], key)


def _check_penalised(value: object, classes: Sequence[str]) -> None:
    """Check the entry of the penalised convention, whose key is `honest`."""
    _check_means(value, "honest", classes=classes)
    penalised = _check_mapping(value, "honest")
    if "empty_predictions" not in penalised or "millimetres" not in penalised:
        raise ValueError("'honest' lacks 'empty_predictions' or 'millimetres'")
    for key in COUNTS:
        if key in penalised:
            _check_count(penalised[key], f"honest.{key}")
    if penalised["millimetres"] is not None:
        _check_means(penalised["millimetres"], "millimetres", classes=classes)


def _check_plain(value: object, path: str, depth: int = 0) -> None:
    """Check at every depth that numbers fit into 64 bits, and that texts can be printed and
    written.
    """
    if depth > DEEPEST:
        raise ValueError(f"'{path}' is nested too deeply")
    if isinstance(value, Mapping):
        for key, item in value.items():
            _check_text(key, path or "summary.json")
            _check_plain(item, f"{path}.{key}".removeprefix("."), depth=depth + 1)
    elif isinstance(value, list):
        for item in value:
            _check_plain(item, path, depth=depth + 1)
    elif isinstance(value, str):
        _check_text(value, path)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        _check_number(value, path)


def _check_text(value: object, path: str) -> None:
    if not isinstance(value, str):
        raise ValueError(f"'{path}' is not a text")
    try:
        value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise ValueError(f"'{path}' cannot be written as UTF-8") from None
    if "\0" in value or len(value) > LONGEST:
        raise ValueError(f"'{path}' holds a zero byte or is too long")


def _check_number(value: object, path: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"'{path}' is not a number")
    if not -LARGEST <= value < LARGEST or not math.isfinite(value):
        raise ValueError(f"'{path}' is not finite or is too large")


def _check_count(value: object, path: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < LARGEST:
        raise ValueError(f"'{path}' is not a whole number from 0")


def _check_mapping(value: object, path: str) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise ValueError(f"'{path}' is not an object")
    return value


def _check_sizes(value: object, path: str) -> None:
    if not isinstance(value, list) or not value:
        raise ValueError(f"'{path}' is not a list of sizes")
    for side in value:
        _check_count(side, path)


def _check_texts(value: object, path: str, nullable: bool) -> None:
    for key, text in _check_mapping(value, path).items():
        if text is not None or not nullable:
            _check_text(text, f"{path}.{key}")


def _check_label_values(summary: Mapping[str, object]) -> None:
    """Check the folders and classes that evaluate.py records: all three entries are present, or
    none.
    """
    keys = [key for key in ("classes", "predictions", "labels") if key in summary]
    if keys and len(keys) < 3:
        raise ValueError("it lacks one of 'classes', 'predictions' and 'labels'")
    for name, values in _check_mapping(summary.get("classes", {}), "classes").items():
        if not isinstance(values, list):
            values = [values]
        for value in values:
            _check_count(value, f"classes.{name}")


def _check_tolerances(value: object, classes: Sequence[str]) -> None:
    """Check NSD's tolerance of each class; a file that is older than NSD has none."""
    if value is None:
        return
    tolerances = _check_mapping(value, NSD_TOLERANCE)
    if set(tolerances) != set(classes):
        raise ValueError(f"'{NSD_TOLERANCE}' are not those of the classes of metrics.csv")
    for name, tolerance in tolerances.items():
        _check_number(tolerance, f"{NSD_TOLERANCE}.{name}")


def _check_checkpoint(checkpoint: object) -> None:
    if checkpoint is None:
        return
    about = _check_mapping(checkpoint, "checkpoint")
    for key in ABOUT_CHECKPOINT:
        if key in about:
            _check_text(about[key], f"checkpoint.{key}")
    if about.get("settings") is None:
        return
    settings = _check_mapping(about["settings"], "checkpoint.settings")
    if settings and "path" not in about:
        raise ValueError("'checkpoint' has no path")
    for key in SETTING_TEXTS:
        if key in settings:
            _check_text(settings[key], f"checkpoint.settings.{key}")
    if settings.get("seed") is not None:
        _check_count(settings["seed"], "checkpoint.settings.seed")
    if "patch_size" in settings:
        _check_sizes(settings["patch_size"], "checkpoint.settings.patch_size")


def _check_means(value: object, path: str, classes: Sequence[str]) -> None:
    """Check that the published metrics have a mean over the classes and a mean of each class.

    Others may be absent: they are newer than the file.
    """
    unit = UNITS[path]
    metrics = {"dice", "jaccard", f"hd95_{unit}", f"asd_{unit}"}
    means = _check_mapping(value, path)
    by_class = _check_mapping(means.get("classes"), f"{path}.classes")
    if set(by_class) != set(classes):
        raise ValueError(f"'{path}.classes' are not the classes of metrics.csv")
    rows = {"mean": means.get("mean")} | dict(by_class)
    for name, row in rows.items():
        numbers = _check_mapping(row, f"{path}.{name}")
        if not metrics <= set(numbers):
            raise ValueError(f"'{path}.{name}' does not hold {', '.join(sorted(metrics))}")
        for metric, number in numbers.items():
            _check_number(number, f"{path}.{name}.{metric}")
