"""The plan of somebody's own data: how scans become what the network sees, and how its classes become their label values again."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from utils.errors import UserError, writing
from utils.files import replacing, shown
from utils.json_file import read_json

FILE = "plan.json"


@dataclass(frozen=True)
class Normalisation:
    """Of one modality. ct: clip to `low`..`high`, subtract `mean`, divide by `sd`, the same for all cases; zscore: each volume's own."""

    scheme: str
    low: float | None = None
    high: float | None = None
    mean: float | None = None
    sd: float | None = None

    def apply(self, volume: np.ndarray) -> np.ndarray:
        """float32 of the same shape; a constant volume becomes 0 under zscore."""
        values = volume.astype(np.float64)
        if self.scheme == "ct":
            return ((values.clip(self.low, self.high) - self.mean) / self.sd).astype(np.float32)
        return ((values - values.mean()) / (values.std() or 1)).astype(np.float32)


@dataclass(frozen=True)
class Plan:
    """How a data set was prepared. Axes x, y, z are those of the canonical `orientation`: to the right, to the front, to the head.

    `class_names` and `label_values`: name and original value of each stored class number, the background first. `dims`: 2 where slices
    are trained on, else 3. `axes`: order of a stored volume's axes, slices first where `dims` is 2; with several modalities a channel
    axis comes before them. `spacing_mm` along x, y, z: what scans are resampled to; None: every scan keeps its own slice distance.
    `median_spacing_mm`, `median_shape` (x, y, z): of the training scans, before and after resampling. `lists`: list files by split
    (train, val, test, unlabelled; where `dims` is 2 also train_slices and unlabelled_slices). `why`: reasons of choices that flags make.
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
        return len(self.class_names)

    @property
    def channels(self) -> int:
        return len(self.channel_names)

    @property
    def stored(self) -> tuple[int, ...]:
        """The canonical axes in the order of a stored volume."""
        return tuple("xyz".index(axis) for axis in self.axes)

    def to_classes(self, label: np.ndarray) -> np.ndarray:
        """A label of original values as class numbers (uint8); all its values must be in `label_values`."""
        order = np.argsort(self.label_values)
        return order[np.searchsorted(np.array(self.label_values)[order], label)].astype(np.uint8)

    def as_dict(self) -> dict:
        """Plain types, for a JSON file or a checkpoint."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_dict(cls, content: Mapping) -> "Plan":
        """The inverse of `as_dict`; TypeError, KeyError or ValueError for anything else."""
        content = dict(content)
        if content.get("version") != 1:
            raise ValueError(f"version {content.get('version')}, this program knows 1")
        content["normalisation"] = tuple(Normalisation(**one) for one in content["normalisation"])
        plan = cls(
            **{
                key: tuple(value) if isinstance(value, list) else value
                for key, value in content.items()
            }
        )
        _check_types(plan)
        if not (
            plan.dims in (2, 3)
            and sorted(plan.axes) == ["x", "y", "z"]
            and len(plan.class_names) == len(plan.label_values)
        ):
            raise ValueError("dims, axes or class names are none of a plan")
        if len(plan.normalisation) != plan.channels or len(plan.spacing_mm) != 3:
            raise ValueError("a modality without normalisation, or not three spacings")
        for name in (plan.name, *plan.class_names, *plan.channel_names):
            if not str(name).isprintable():
                raise ValueError(f"the name {shown(str(name))} holds control characters")
        for pattern in (plan.file, plan.slice_file, *plan.lists.values()):
            if (
                Path(pattern).is_absolute()
                or ".." in Path(pattern).parts
                or not pattern.isprintable()
            ):
                raise ValueError(f"{shown(pattern)} leads out of the folder")
        return plan

    def write(self, root: Path) -> None:
        path = root / FILE
        with (
            writing(path, "free space or name another place with --root_path"),
            replacing(path) as unfinished,
        ):
            unfinished.write_text(json.dumps(self.as_dict(), indent=2) + "\n", encoding="utf-8")


def _check_types(plan: Plan) -> None:
    """Raise ValueError where a field is not of its type."""
    _check_each(plan, ("class_names", "channel_names"), "names", _is_text)
    _check_each(plan, ("label_values", "median_shape"), "whole numbers", _is_count)
    _check_each(plan, ("median_spacing_mm",), "sizes", _is_size)
    _check_each(plan, ("spacing_mm",), "sizes", lambda size: size is None or _is_size(size))
    for key in ("name", "axes", "orientation", "file", "slice_file"):
        if not _is_text(getattr(plan, key)):
            raise ValueError(f"{key} is no text")
    if not _is_count(plan.dims):
        raise ValueError("dims is no whole number")
    for key in ("lists", "why"):
        value = getattr(plan, key)
        if not isinstance(value, Mapping) or not all(map(_is_text, value.values())):
            raise ValueError(f"{key} does not hold texts")
    if plan.file.count("{}") != 1 or plan.slice_file.count("{}") != 2:
        raise ValueError("file or slice_file has no place for the name of a case")
    for one in plan.normalisation:
        _check_normalisation(one)


def _check_lists(plan: Plan) -> None:
    """Raise ValueError where a split has no list."""
    lists = {"train", "val", "test", "unlabelled"}
    if plan.dims == 2:
        lists |= {"train_slices", "unlabelled_slices"}
    if missing := sorted(lists - plan.lists.keys()):
        raise ValueError(f"it names no list of {missing[0]} cases")


def _check_each(plan: Plan, keys: tuple[str, ...], what: str, fits: Callable) -> None:
    for key in keys:
        values = getattr(plan, key)
        if not isinstance(values, tuple) or not values or not all(map(fits, values)):
            raise ValueError(f"{key} are no {what}")


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
    return _is_number(value) and value > 0


def read_plan(root: Path) -> Plan:
    """The plan in the folder; raises UserError where there is none or it is damaged."""
    path = root / FILE
    if not path.is_file():
        raise UserError(
            f"{path}: no such plan; make it: python code/prepare_data.py --dataset own --source YOUR_DATA --root_path {root}"
        )
    try:
        plan = Plan.from_dict(read_json(path))
        _check_lists(plan)
        return plan
    except (OSError, UnicodeDecodeError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{path}: not a plan ({error}); prepare the data again with --redo"
        ) from None
