"""Which classes of a label map are scored.

They come from nnU-Net's dataset.json, a plan.json, predict.json, or the labels themselves.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from dataloaders.plan import FILE as PLAN
from utils.errors import UserError
from utils.json_file import read_json, whole
from utils.names import MEAN_OF_CLASSES

DATASET = "dataset.json"
PREDICTED = "predict.json"
LARGEST_VALUE = 65535


@dataclass(frozen=True)
class ClassValues:
    """The foreground classes of a data set and their label values.

    `values`: the label values of each class, several where nnU-Net's dataset has regions. `ignore`:
    the value of voxels that do not count. `name`: of the data set. `source`: the file that defines
    the classes.
    """

    values: Mapping[str, tuple[int, ...]]
    ignore: int | None = None
    name: str = ""
    source: str = ""

    @property
    def allowed(self) -> tuple[int, ...]:
        """All values that a prediction may hold."""
        allowed = {0}
        for values in self.values.values():
            allowed.update(values)
        return tuple(sorted(allowed))

    def plain(self) -> dict[str, int | list[int]]:
        """The values as JSON holds them: a number, or a list for a region."""
        plain: dict[str, int | list[int]] = {}
        for name, values in self.values.items():
            plain[name] = list(values)
            if len(values) == 1:
                plain[name] = values[0]
        return plain


def find_classes(explicit: Path | None, labels: Path, predictions: Path) -> ClassValues | None:
    """The classes that `explicit` or a file near the folders of labels and predictions defines.

    None if there is no such file. Raises UserError for a file that is not understood.
    """
    if explicit is not None:
        if not explicit.is_file():
            raise UserError(f"--classes {explicit}: no such file; name a dataset.json or plan.json")
        return read_classes(explicit)
    candidates: list[Path] = []
    for folder in (labels, labels.resolve().parent, predictions):
        candidates += [folder / DATASET, folder / PLAN]
    candidates.append(predictions / PREDICTED)
    for path in candidates:
        if path.is_file():
            return read_classes(path)
    return None


def check_predicted(classes: ClassValues, predictions: Path) -> None:
    """Raise UserError if predict.json gives a class another label value than `classes`.

    It would be scored as another class.
    """
    path = predictions / PREDICTED
    if not path.is_file():
        return
    try:
        predicted = read_classes(path)
    except UserError:  # damaged, or written by another program
        return
    for name, values in predicted.values.items():
        expected = classes.values.get(name, values)
        if expected != values:
            raise UserError(
                f"{path}: {name} has the label value {_listed(values)} in the predictions, but "
                f"{_listed(expected)} in {classes.source}; predict or label again with the same "
                f"values"
            )


def _listed(values: tuple[int, ...]) -> str:
    return " or ".join(str(value) for value in values)


def classes_of_values(values: Iterable[int]) -> ClassValues:
    """The classes of labels without a description: each value but 0, named by its number."""
    by_name = {str(value): (value,) for value in sorted(set(values)) if value != 0}
    return ClassValues(by_name, source="the labels' values")


def read_classes(path: Path) -> ClassValues:
    """Read the classes from a dataset.json, plan.json or predict.json.

    A dataset.json may be of either version of nnU-Net. Raises UserError if they are not understood.
    """
    try:
        content: dict[str, Any] = read_json(path)
        name_key, named = _named_values(content)
        name = content.get(name_key, "")
        values = {str(key): _values(value) for key, value in named.items()}
        ignored = values.pop("ignore", None)
        foreground = {key: numbers for key, numbers in values.items() if numbers != (0,)}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{path}: defines no classes that are understood ({type(error).__name__}: {error}); "
            f"name another file with --classes"
        ) from None
    if not foreground:
        raise UserError(
            f"{path}: has no class except the background; name another file with --classes"
        )
    if MEAN_OF_CLASSES in foreground:
        raise UserError(
            f"{path}: a class has the name of the mean over all classes, {MEAN_OF_CLASSES}; rename "
            "it, or name another file with --classes"
        )
    ignore = None
    if ignored is not None:
        ignore = ignored[0]
    return ClassValues(foreground, ignore=ignore, name=str(name), source=str(path))


def _named_values(content: Mapping[str, Any]) -> tuple[str, Mapping[str, object]]:
    """The key of the data set's name, and the value or values of each class."""
    if "labels" in content:
        return "name", _nnunet_labels(content["labels"])
    if "class_names" in content:
        return "name", dict(zip(content["class_names"], content["label_values"], strict=True))
    return "dataset", content["label_values"]


def _nnunet_labels(labels: Mapping[str, object]) -> Mapping[str, object]:
    """Names to values; nnU-Net's first version maps values to names."""
    by_name: dict[str, object] = {}
    for key, value in labels.items():
        if not (str(key).isdecimal() and isinstance(value, str)):
            return labels
        by_name[value] = int(key)
    return by_name


def _values(value: object) -> tuple[int, ...]:
    """A label value, or the values of a region, as a tuple. Raises ValueError for anything else."""
    items = [value]
    if isinstance(value, list):
        items = cast(list[object], value)
    values: list[int] = []
    for item in items:
        number = whole(item)
        is_whole = isinstance(number, int) and not isinstance(number, bool)
        if not is_whole or not 0 <= number <= LARGEST_VALUE:
            raise ValueError(f"label value {value!r}")
        values.append(number)
    if not values:
        raise ValueError(f"label value {value!r}")
    return tuple(values)
