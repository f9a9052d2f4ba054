"""The plan of a user's own data: how scans become what the network sees, and how its classes become
their label values again.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import UserError, writing
from utils.files import replacing, shown
from utils.json_file import read_json

FILE = "plan.json"


@dataclass(frozen=True)
class Normalisation:
    """The normalisation of one modality.

    Scheme "ct": clip to `low`..`high`, subtract `mean`, divide by `sd`, which are the same for all
    cases. Scheme "zscore": subtract each volume's own mean and divide by its own standard
    deviation; the four numbers are None.
    """

    scheme: str
    low: float | None = None
    high: float | None = None
    mean: float | None = None
    sd: float | None = None

    def in_words(self) -> str:
        """What `apply` does."""
        if self.scheme == "ct":
            return f"clipped to {self.low:g}..{self.high:g}; (v - {self.mean:g}) / {self.sd:g}"
        return "(v - mean) / standard deviation over the volume"

    def apply(self, volume: np.ndarray) -> np.ndarray:
        """Normalise a volume to float32 of the same shape; a constant volume becomes 0 under
        zscore.

        Raises ArithmeticError for intensities whose z-score cannot be computed.
        """
        values = volume.astype(np.float64)
        if self.scheme != "ct":
            mean, deviation = mean_and_deviation(values)
            return ((values - mean) / (deviation or 1)).astype(np.float32)
        if self.low is None or self.high is None or self.mean is None or self.sd is None:
            raise ValueError("a normalisation of the scheme ct lacks a number")
        clipped = values.clip(self.low, self.high)
        return ((clipped - self.mean) / self.sd).astype(np.float32)


def mean_and_deviation(values: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of intensities in float64; the deviation is 0 if all are equal.

    Raises ArithmeticError where their squares are too large or too small for float64.
    """
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        mean = float(values.mean())
        deviation = float(values.std())
    is_lost = deviation == 0 and values.min() != values.max()
    if is_lost or not math.isfinite(mean) or not math.isfinite(deviation):
        raise ArithmeticError(
            f"intensities from {values.min():g} to {values.max():g} have no standard deviation in "
            "float64"
        )
    return mean, deviation


@dataclass(frozen=True)
class Plan:
    """How a data set was prepared. Axes x, y, z are those of the canonical `orientation`: to the
    right, to the front, to the head.

    `class_names` and `label_values`: name and original value of each stored class number, the
    background first. `dims`: 2 where slices are trained on, else 3. `axes`: order of a stored
    volume's axes, slices first where `dims` is 2; with several modalities a channel axis comes
    before them. `spacing_mm` along x, y, z: the spacing that scans are resampled to; None: every
    scan keeps its own slice distance. `median_spacing_mm`, `median_shape` (x, y, z): of the
    training scans, before and after resampling. `lists`: list files by split (train, val, test,
    unlabelled; where `dims` is 2 also train_slices and unlabelled_slices). `why`: the reason for
    each choice that a flag can change.
    """

    name: str
    class_names: tuple[str, ...]
    label_values: tuple[int, ...]
    channel_names: tuple[str, ...]
    normalisation: tuple[Normalisation, ...]
    dims: int
    axes: str
    spacing_mm: tuple[float | None, ...]
    median_spacing_mm: tuple[float, ...]
    median_shape: tuple[int, ...]
    lists: Mapping[str, str]
    why: Mapping[str, str] = field(default_factory=dict)
    orientation: str = "RAS"
    file: str = "data/{}.h5"
    slice_file: str = "data/slices/{}_slice_{}.h5"
    version: int = 1

    @property
    def classes(self) -> int:
        """Number of classes, background included."""
        return len(self.class_names)

    @property
    def channels(self) -> int:
        """Number of modalities of an image."""
        return len(self.channel_names)

    @property
    def stored(self) -> tuple[int, ...]:
        """The canonical axes in the order of a stored volume."""
        return tuple("xyz".index(axis) for axis in self.axes)

    def to_classes(self, label: np.ndarray) -> np.ndarray:
        """Convert a label of original values to class numbers (uint8); all its values must be in
        `label_values`.
        """
        order = np.argsort(self.label_values)
        sorted_values = np.array(self.label_values)[order]
        positions = np.searchsorted(sorted_values, label)
        return order[positions].astype(np.uint8)

    def as_dict(self) -> dict[str, Any]:
        """Plain types, for a JSON file or a checkpoint."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Plan":
        """The inverse of `as_dict`; TypeError, KeyError or ValueError for anything else."""
        content = dict(content)
        if content.get("version") != 1:
            raise ValueError(f"version {content.get('version')}, this program reads version 1")
        values: dict[str, Any] = _with_tuples(content)
        values["normalisation"] = tuple(Normalisation(**one) for one in content["normalisation"])
        plan = cls(**values)
        _check_types(plan)
        _check_numbers_of_entries(plan)
        for name in (plan.name, *plan.class_names, *plan.channel_names):
            if not str(name).isprintable():
                raise ValueError(f"the name {shown(str(name))} holds control characters")
        for pattern in (plan.file, plan.slice_file, *plan.lists.values()):
            if _leads_out(pattern):
                raise ValueError(f"{shown(pattern)} leads out of the folder")
        return plan

    def write(self, root: Path) -> None:
        """Write the plan into the folder of the prepared data. Raises UserError if it cannot."""
        path = root / FILE
        with (
            writing(path, "free space or name another folder with --root_path"),
            replacing(path) as unfinished,
        ):
            unfinished.write_text(json.dumps(self.as_dict(), indent=2) + "\n", encoding="utf-8")


def _with_tuples(content: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of `content` with a tuple in place of each list."""
    values: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, list):
            value = tuple(value)
        values[key] = value
    return values


def _check_numbers_of_entries(plan: Plan) -> None:
    """Raise ValueError where fields of a plan do not fit each other."""
    if plan.dims not in (2, 3):
        raise ValueError(f"dims is {plan.dims}, expected 2 or 3")
    if sorted(plan.axes) != ["x", "y", "z"]:
        raise ValueError(f"axes is {shown(plan.axes)}, expected x, y and z in some order")
    if len(plan.class_names) != len(plan.label_values):
        raise ValueError("class_names and label_values are not of one length")
    if len(plan.normalisation) != plan.channels or len(plan.spacing_mm) != 3:
        raise ValueError("a modality without normalisation, or not three spacings")


def _leads_out(pattern: str) -> bool:
    path = Path(pattern)
    return path.is_absolute() or ".." in path.parts or not pattern.isprintable()


def _check_types(plan: Plan) -> None:
    """Raise ValueError where a field is not of its type."""
    _check_each(plan, ("class_names", "channel_names"), what="names", fits=_is_text)
    _check_each(plan, ("label_values", "median_shape"), what="whole numbers", fits=_is_count)
    _check_each(plan, ("median_spacing_mm",), what="sizes", fits=_is_size)
    _check_each(plan, ("spacing_mm",), what="sizes", fits=_is_size_or_none)
    for key in ("name", "axes", "orientation", "file", "slice_file"):
        if not _is_text(getattr(plan, key)):
            raise ValueError(f"{key} is not a text")
    if not _is_count(plan.dims):
        raise ValueError("dims is not a whole number")
    for key in ("lists", "why"):
        value = getattr(plan, key)
        if not isinstance(value, Mapping) or not all(map(_is_text, value.values())):
            raise ValueError(f"{key} does not contain texts")
    if plan.file.count("{}") != 1 or plan.slice_file.count("{}") != 2:
        raise ValueError("file or slice_file has no place for the name of a case")
    for one in plan.normalisation:
        _check_normalisation(one)


def _check_lists(plan: Plan) -> None:
    """Raise ValueError where a split has no list, or one without a file ending."""
    lists = {"train", "val", "test", "unlabelled"}
    if plan.dims == 2:
        lists |= {"train_slices", "unlabelled_slices"}
    if missing := sorted(lists - plan.lists.keys()):
        raise ValueError(f"the list of {missing[0]} cases is missing")
    for split, file in plan.lists.items():
        if not Path(file).suffix:
            raise ValueError(f"the list of {split} cases is {shown(file)}, expected a name.list")


def _check_each(
    plan: Plan, keys: tuple[str, ...], what: str, fits: Callable[[object], bool]
) -> None:
    for key in keys:
        values = getattr(plan, key)
        if not isinstance(values, tuple) or not values or not all(map(fits, values)):
            raise ValueError(f"{key} are not {what}")


def _check_normalisation(one: Normalisation) -> None:
    numbers = (one.low, one.high, one.mean, one.sd)
    if one.scheme == "zscore":
        numbers = ()
    elif one.scheme != "ct":
        raise ValueError("a normalisation is neither ct nor zscore")
    if not all(map(_is_number, numbers)) or (numbers and not one.sd):
        raise ValueError("a normalisation lacks a number")


def _is_text(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) < 1000 and "\0" not in value


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < 2**63 and math.isfinite(value)


def _is_size(value: object) -> bool:
    return isinstance(value, int | float) and _is_number(value) and value > 0


def _is_size_or_none(value: object) -> bool:
    return value is None or _is_size(value)


def read_plan(root: Path) -> Plan:
    """Read the plan in the folder; raises UserError where there is none or it is damaged."""
    path = root / FILE
    if not path.is_file():
        raise UserError(
            f"{path}: no such plan; make it: python code/prepare_data.py --dataset own --source "
            f"YOUR_DATA --root_path {root}"
        )
    try:
        plan = Plan.from_dict(read_json(path))
        _check_lists(plan)
        return plan
    except (OSError, UnicodeDecodeError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{path}: not a plan ({error}); prepare the data again with --redo"
        ) from None
