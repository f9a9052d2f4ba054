"""The plan of somebody's own data: how scans become what the network sees, and how its classes become their label values again."""

import json
from collections.abc import Mapping
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

    def to_values(self, classes: np.ndarray) -> np.ndarray:
        """Class numbers as the original label values, in the smallest unsigned type that holds them all."""
        return np.array(self.label_values, np.min_scalar_type(max(self.label_values)))[classes]

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


def read_plan(root: Path) -> Plan:
    """The plan in the folder; raises UserError where there is none or it is damaged."""
    path = root / FILE
    if not path.is_file():
        raise UserError(
            f"{path}: no such plan; make it: python code/prepare_data.py --dataset own --source YOUR_DATA --root_path {root}"
        )
    try:
        return Plan.from_dict(read_json(path))
    except (OSError, UnicodeDecodeError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{path}: not a plan ({error}); prepare the data again with --redo"
        ) from None
