"""Which classes of a label map are scored: from nnU-Net's dataset.json, a plan, predict.json, or
the labels themselves."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from dataloaders.plan import FILE as PLAN
from utils.errors import UserError
from utils.json_file import read_json, whole

DATASET = "dataset.json"
PREDICTED = "predict.json"


@dataclass(frozen=True)
class Classes:
    """`values`: the label values of each class, the background left out; several where nnU-Net's
    dataset has regions. `ignore`: the value of voxels that do not count. `name`: of the data set.
    `source`: where that is said."""

    values: Mapping[str, tuple[int, ...]]
    ignore: int | None = None
    name: str = ""
    source: str = ""

    @property
    def declared(self) -> tuple[int, ...]:
        """All values that a prediction may hold."""
        return tuple(sorted({0, *(value for values in self.values.values() for value in values)}))

    def plain(self) -> dict[str, int | list[int]]:
        return {
            name: values[0] if len(values) == 1 else list(values)
            for name, values in self.values.items()
        }


def find_classes(explicit: Path | None, labels: Path, predictions: Path) -> Classes | None:
    """The classes that a file says; None where no file does. Raises UserError for a file that is
    not understood."""
    if explicit is not None:
        if not explicit.is_file():
            raise UserError(f"--classes {explicit}: no such file; name a dataset.json or plan.json")
        return read_classes(explicit)
    beside = labels.resolve().parent
    places = [folder / name for folder in (labels, beside, predictions) for name in (DATASET, PLAN)]
    found = next((path for path in (*places, predictions / PREDICTED) if path.is_file()), None)
    return None if found is None else read_classes(found)


def check_predicted(classes: Classes, predictions: Path) -> None:
    """UserError where predict.json next to the predictions gives a class another label value than
    `classes`: it would be scored as another class."""
    path = predictions / PREDICTED
    if not path.is_file():
        return
    try:
        predicted = read_classes(path)
    except UserError:  # damaged, or another program's
        return
    for name, values in predicted.values.items():
        if classes.values.get(name, values) != values:
            raise UserError(
                f"{path}: {name} has the label value {_listed(values)} in the predictions, "
                f"but {_listed(classes.values[name])} in "
                f"{classes.source}; predict or label again with the same values"
            )


def _listed(values: tuple[int, ...]) -> str:
    return " or ".join(str(value) for value in values)


def classes_of_values(values: Iterable[int]) -> Classes:
    """Of labels that nobody describes: each value but 0 is a class, named by its number."""
    return Classes(
        {str(value): (value,) for value in sorted(values) if value}, source="the labels' values"
    )


def read_classes(path: Path) -> Classes:
    """The classes in a dataset.json (nnU-Net's, of either version), plan.json or predict.json;
    UserError where they are not understood."""
    try:
        content = read_json(path)
        if "labels" in content:
            named, name = _nnunet(content["labels"]), content.get("name", "")
        elif "class_names" in content:
            named, name = (
                dict(zip(content["class_names"], content["label_values"], strict=True)),
                content.get("name", ""),
            )
        else:
            named, name = content["label_values"], content.get("dataset", "")
        found = {str(key): _values(value) for key, value in named.items()}
        ignore = found.pop("ignore", (None,))[0]
        values = {key: some for key, some in found.items() if some != (0,)}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{path}: says no classes that are understood ({type(error).__name__}: {error}); "
            "name another file with --classes"
        ) from None
    if not values:
        raise UserError(
            f"{path}: has no class beside the background; name another file with --classes"
        )
    return Classes(values, ignore, str(name), str(path))


def _nnunet(labels: Mapping) -> Mapping:
    """Names to values; nnU-Net's first version had it the other way round."""
    if all(str(key).isdecimal() and isinstance(value, str) for key, value in labels.items()):
        return {value: int(key) for key, value in labels.items()}
    return labels


def _values(value) -> tuple[int, ...]:
    values = tuple(map(whole, value)) if isinstance(value, list) else (whole(value),)
    if not values or not all(
        isinstance(one, int) and not isinstance(one, bool) and 0 <= one < 65536 for one in values
    ):
        raise ValueError(f"label value {value!r}")
    return values
