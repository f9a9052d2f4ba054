"""Uncertainty maps of predictions: their kinds, their values, and the ranking of cases."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.special import entr

from commands.predict_back import WayBack
from evaluation.passes import ExtraMaps, class_variance
from utils.errors import UserError

Kind = Literal["entropy", "mirror", "dropout", "ensemble"]
UNCERTAINTY = "uncertainty"  # key of a case's record
FOREGROUND = "foreground_mean"  # key of a map's record
MAPS = "maps"  # key of a record of uncertainty
PASSES = "passes"  # key of a record of uncertainty
FEATURES = "features"  # key of a record of uncertainty: the file with the mean feature
FEWEST_PASSES = 2
Map = NDArray[np.float32]


@dataclass(frozen=True)
class Uncertainty:
    """Which maps are computed.

    `kinds`: without repetitions. `passes`: with dropout. `mirror`: whether the label map is that of
    the mean over flips.
    """

    kinds: tuple[Kind, ...] = ()
    passes: int = 8
    mirror: bool = False

    def check(self) -> None:
        """Raise UserError for a number of passes that has no variance."""
        if "dropout" in self.kinds and self.passes < FEWEST_PASSES:
            raise UserError(
                f"--passes {self.passes}: the variance over passes needs at least {FEWEST_PASSES}"
            )

    @cached_property
    def extra(self) -> ExtraMaps:
        """The maps that a network's pass returns behind its probabilities."""
        passes = 0
        if "dropout" in self.kinds:
            passes = self.passes
        mirror = "mirror" in self.kinds
        further_passes = passes > 0 or (mirror and not self.mirror)
        return ExtraMaps(mirror, passes, mean="entropy" in self.kinds and further_passes)

    @property
    def made_with(self) -> dict[str, Any]:
        """What the maps of a scan depend on, apart from everything that its labels depend on."""
        return {"kinds": sorted(self.kinds), PASSES: self.extra.dropout_passes}

    def combined(self, planes: Sequence[Tensor], classes: int) -> Tensor:
        """The mean of the planes (K + M, rows, columns) of several networks.

        The variance of their probabilities follows if the kind `ensemble` is asked for.
        """
        if len(planes) == 1:
            return planes[0]
        stacked = torch.stack(list(planes))
        mean = stacked.mean(0)
        if "ensemble" not in self.kinds:
            return mean
        variance = class_variance(stacked[:, None, :classes])
        return torch.cat([mean, variance])

    def maps(self, plane: Tensor, classes: int) -> dict[Kind, Tensor]:
        """The maps (rows, columns) in a plane (K + M, rows, columns) of `combined`."""
        maps: dict[Kind, Tensor] = {}
        number = classes
        if "mirror" in self.kinds:
            maps["mirror"] = plane[number]
            number += 1
        if "dropout" in self.kinds:
            maps["dropout"] = plane[number]
            number += 1
        if "entropy" in self.kinds:
            probabilities = plane[:classes]
            if self.extra.mean:
                probabilities = plane[number : number + classes]
            maps["entropy"] = entropy(probabilities)
        if "ensemble" in self.kinds:
            maps["ensemble"] = plane[-1]
        return maps


def entropy(probabilities: Tensor) -> Tensor:
    """The entropy of probabilities (K, ...) in nats, between 0 and ln K."""
    return entr(probabilities).sum(0)


NO_UNCERTAINTY = Uncertainty()


class UncertaintyMaps:
    """The maps of a scan, on its own grid.

    `arrays`: by kind, float32, 0 outside of the part that was predicted.
    """

    def __init__(self, uncertainty: Uncertainty, classes: int, back: WayBack) -> None:
        """`classes`: of the network. `back`: from the network's planes to the scan's grid."""
        self.arrays: dict[str, Map] = {}
        for kind in uncertainty.kinds:
            self.arrays[kind] = np.zeros(back.shape, np.float32)
        self._uncertainty = uncertainty
        self._classes = classes
        self._back = back

    def fill(self, index: int, plane: Tensor) -> None:
        """Set the plane `index` of `WayBack.view` from a plane (K + M, rows, columns)."""
        for kind, values in self._uncertainty.maps(plane, self._classes).items():
            self._back.view(self.arrays[kind])[index] = values.numpy()

    def means(self, labels: NDArray[np.uint8]) -> dict[str, dict[str, float | None]]:
        """The mean of each map: over the voxels that were predicted, and over the predicted
        foreground with its border, None without foreground.
        """
        region = with_border(labels > 0)
        means: dict[str, dict[str, float | None]] = {}
        for kind, array in self.arrays.items():
            foreground = None
            if region.any():
                foreground = _mean(array[region])
            means[kind] = {"mean": _mean(self._back.view(array)), FOREGROUND: foreground}
        return means


def with_border(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A mask with the voxels that share a face with it."""
    grown = mask.copy()
    for axis in range(mask.ndim):
        source = np.moveaxis(mask, axis, 0)
        target = np.moveaxis(grown, axis, 0)
        target[1:] |= source[:-1]
        target[:-1] |= source[1:]
    return grown


def _mean(values: Map) -> float:
    """The mean with six significant digits."""
    return float(f"{values.mean(dtype=np.float64):.6g}")


def rankings(records: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """The names of the cases by kind of map, the most uncertain one first.

    `records`: of the cases, as in predict.json. What counts is the mean over the predicted
    foreground with its border. Cases without foreground come first, because the network found
    nothing in them.
    """
    values: dict[str, dict[str, float | None]] = {}
    for name, record in records.items():
        maps = record.get(UNCERTAINTY, {}).get(MAPS, {})
        for kind, about in maps.items():
            values.setdefault(kind, {})[name] = about[FOREGROUND]
    ranking: dict[str, list[str]] = {}
    for kind, of_cases in values.items():
        ranking[kind] = _highest_first(of_cases)
    return ranking


def _highest_first(values: Mapping[str, float | None]) -> list[str]:
    def order(name: str) -> tuple[float, str]:
        value = values[name]
        if value is None:
            return -np.inf, name
        return -value, name

    return sorted(values, key=order)


def without_repetitions(kinds: Iterable[Kind]) -> tuple[Kind, ...]:
    """The kinds in their order, each once."""
    return tuple(dict.fromkeys(kinds))
