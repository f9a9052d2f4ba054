"""The content of a summary.json is of the right types, whoever wrote it: each fault is told with the place where it is."""

import math
from collections.abc import Mapping, Sequence

LARGEST = 2**63
LONGEST = 4000  # characters of a text
DEEPEST = 8
SOFT_TEXTS = ("root_path", "command", "date", "machine", "git_commit")
TEXTS = ("dataset", "split", "predictions", "labels", "metrics_sha256")
ABOUT_CHECKPOINT = ("path", "sha256", "selection", "method")
SETTING_TEXTS = ("method", "model", "exp", "egm")
COUNTS = ("empty_predictions", "absent_in_truth")
UNITS = {"as_published": "voxel", "honest": "voxel", "millimetres": "mm"}


def check_summary(summary: Mapping, classes: Sequence[str]) -> None:
    """Raise ValueError unless what compare.py and report.py read of a summary.json can be read; `classes`: those of metrics.csv."""
    _check_plain(summary, "")
    for key in TEXTS:
        if key in summary:
            _check_text(summary[key], key)
    for key in SOFT_TEXTS:
        if summary.get(key) is not None:
            _check_text(summary[key], key)
    _check_count(summary["cases"], "cases")
    for key in ("patch_size", "stride"):
        if summary.get(key) is not None:
            _check_sizes(summary[key], key)
    _check_texts(summary.get("versions") or {}, "versions", nullable=True)
    _check_texts(summary.get("prediction_sha256", {}), "prediction_sha256", nullable=False)
    _check_label_values(summary)
    _check_checkpoint(summary.get("checkpoint"))
    _check_means(summary["as_published"], "as_published", classes=classes)
    honest = summary["honest"]
    _check_means(honest, "honest", classes=classes)
    if "empty_predictions" not in honest or "millimetres" not in honest:
        raise ValueError("'honest' lacks the empty predictions or the distances in millimetres")
    for key in COUNTS:
        if key in honest:
            _check_count(honest[key], f"honest.{key}")
    if honest["millimetres"] is not None:
        _check_means(honest["millimetres"], "millimetres", classes=classes)


def _check_plain(value: object, place: str, depth: int = 0) -> None:
    """Numbers that fit into 64 bits and texts that can be printed and written, at every depth."""
    if depth > DEEPEST:
        raise ValueError(f"'{place}' is nested too deeply")
    if isinstance(value, Mapping):
        for key, item in value.items():
            _check_text(key, place or "summary.json")
            _check_plain(item, f"{place}.{key}".removeprefix("."), depth + 1)
    elif isinstance(value, list):
        for item in value:
            _check_plain(item, place, depth + 1)
    elif isinstance(value, str):
        _check_text(value, place)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        _check_number(value, place)


def _check_text(value: object, place: str) -> None:
    if not isinstance(value, str):
        raise ValueError(f"'{place}' is no text")
    try:
        value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise ValueError(f"'{place}' holds no text that can be written") from None
    if "\0" in value or len(value) > LONGEST:
        raise ValueError(f"'{place}' holds a zero byte, or is too long")


def _check_number(value: object, place: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"'{place}' is no number")
    if not -LARGEST <= value < LARGEST or not math.isfinite(value):
        raise ValueError(f"'{place}' is not finite, or too large")


def _check_count(value: object, place: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < LARGEST:
        raise ValueError(f"'{place}' is no count")


def _check_mapping(value: object, place: str) -> Mapping:
    if not isinstance(value, Mapping):
        raise ValueError(f"'{place}' is no object with keys")
    return value


def _check_sizes(value: object, place: str) -> None:
    if not isinstance(value, list) or not value:
        raise ValueError(f"'{place}' is no list of sizes")
    for side in value:
        _check_count(side, place)


def _check_texts(value: object, place: str, nullable: bool) -> None:
    for key, text in _check_mapping(value, place).items():
        if text is not None or not nullable:
            _check_text(text, f"{place}.{key}")


def _check_label_values(summary: Mapping) -> None:
    """What evaluate.py says of the two folders and their classes: all of it, or nothing."""
    keys = [key for key in ("classes", "predictions", "labels") if key in summary]
    if keys and len(keys) < 3:
        raise ValueError("it lacks one of 'classes', 'predictions' and 'labels'")
    for name, values in _check_mapping(summary.get("classes", {}), "classes").items():
        if not isinstance(values, list):
            values = [values]
        for value in values:
            _check_count(value, f"classes.{name}")


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


def _check_means(value: object, place: str, classes: Sequence[str]) -> None:
    """Means over the classes, and of each class, of all figures."""
    unit = UNITS[place]
    figures = {"dice", "jaccard", f"hd95_{unit}", f"asd_{unit}"}
    means = _check_mapping(value, place)
    by_class = _check_mapping(means.get("classes"), f"{place}.classes")
    if set(by_class) != set(classes):
        raise ValueError(f"'{place}.classes' are not the classes of metrics.csv")
    rows = {"mean": means.get("mean")} | dict(by_class)
    for name, row in rows.items():
        numbers = _check_mapping(row, f"{place}.{name}")
        if set(numbers) != figures:
            raise ValueError(f"'{place}.{name}' does not hold {', '.join(sorted(figures))}")
        for figure, number in numbers.items():
            _check_number(number, f"{place}.{name}.{figure}")
