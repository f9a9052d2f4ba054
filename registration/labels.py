"""From two annotated slices to two coarse labels: which slices each direction goes through, how what was carried becomes volumes, and
figures that need no truth. Pure functions; the registration itself is in utils/registration.py."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dataloaders.coarse import Annotation, coarse_path, training_label
from utils.registration import Guide, fuse, signed_distance

# A label is said to have vanished too early where the other plane's annotated slice shows the object this many slices further.
EARLY_SLICES = 3
PLANES = ("px", "py")
AGAIN = "run the same command again"


@dataclass(frozen=True)
class Case:
    name: str
    path: Path
    annotated: tuple[Annotation, Annotation]

    @property
    def coarse(self) -> tuple[Path, Path]:
        return coarse_path(self.path, 0), coarse_path(self.path, 1)


def directions(
    own: Annotation, other: Annotation | None, length: int
) -> list[tuple[np.ndarray, Guide | None]]:
    """Slice numbers, annotated one first, of both directions, to the axis's ends; with the other plane's annotated slice also what
    that tells of each slice, and only to where the object ends on it."""
    first, last, guide = 0, length - 1, None
    if other is not None:
        lines = np.moveaxis(other.mask > 0, own.axis - (own.axis > other.axis), 0)
        distance = np.moveaxis(
            signed_distance(other.mask > 0), own.axis - (own.axis > other.axis), 0
        )
        if lines[
            own.index
        ].any():  # else it shows another part of the object, whose ends say nothing about this one
            first, last = np.flatnonzero(lines.any(1))[[0, -1]]
    parts = np.arange(own.index, first - 1, -1), np.arange(own.index, last + 1)
    if other is not None:
        guides = [
            Guide(distance[part], other.axis - (other.axis > own.axis), other.index)
            for part in parts
        ]
        return list(zip(parts, guides, strict=True))
    return [(part, guide) for part in parts]


def assemble(
    case: Case, shape: tuple[int, ...], carried: Sequence, improved: bool
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The two planes' labels as volumes, as carried and as training is to read them; `carried` in the order of `_submit`."""
    alone = []
    for (own, other), down, up in zip(
        (case.annotated, case.annotated[::-1]), carried[::2], carried[1::2], strict=True
    ):
        label = np.zeros(shape, np.uint8)
        view = np.moveaxis(label, own.axis, 0)
        for (part, _), found in zip(
            directions(own, other if improved else None, shape[own.axis]), (down, up), strict=True
        ):
            view[part] = found.label
        alone.append(label)
    if not improved:
        return alone, alone
    both = fuse(
        (alone[0] > 0, alone[1] > 0), tuple((drawn.axis, drawn.index) for drawn in case.annotated)
    )
    for drawn in case.annotated:
        both = training_label(both, drawn)
    return alone, [both, both]


def _extent(label: np.ndarray, axis: int) -> np.ndarray:
    """First and last slice along `axis` that hold anything."""
    return np.flatnonzero(label.any(axis=tuple(k for k in range(label.ndim) if k != axis)))[[0, -1]]


def _seen_extent(case: Case, plane: int) -> np.ndarray:
    """First and last slice of the plane's axis in which the other plane's annotated slice shows the object."""
    own, other = case.annotated[plane], case.annotated[1 - plane]
    return _extent(other.mask, own.axis - (own.axis > other.axis))


def figures(case: Case, plane: int, label: np.ndarray) -> dict:
    """How far the plane's label reaches: without any truth but the annotated slices."""
    drawn = case.annotated[plane]
    (first, last), (seen_first, seen_last), length = (
        _extent(label, drawn.axis),
        _seen_extent(case, plane),
        label.shape[drawn.axis],
    )
    return {
        "case": case.name,
        "plane": PLANES[plane],
        "axis": drawn.axis,
        "annotated_slice": drawn.index,
        "slices": length,
        "first_slice": int(first),
        "last_slice": int(last),
        "died_below": int(first) - 1 if first > 0 else "",
        "died_above": int(last) + 1 if last < length - 1 else "",
        "beyond_other_plane": int(max(seen_first - first, 0) + max(last - seen_last, 0)),
    }


def early_end(case: Case, plane: int, label: np.ndarray) -> list[str]:
    """A warning for each direction in which the label vanished although the other plane's annotated slice still shows the object."""
    (first, last), (seen_first, seen_last) = (
        _extent(label, case.annotated[plane].axis),
        _seen_extent(case, plane),
    )
    name, lost = (
        f"{case.name}: the {PLANES[plane]} label",
        "though the other annotated slice shows the object up to slice",
    )
    said = []
    if first - seen_first > EARLY_SLICES:
        said.append(
            f"{name} vanished at slice {first - 1} of axis {case.annotated[plane].axis}, {lost} {seen_first}"
        )
    if seen_last - last > EARLY_SLICES:
        said.append(
            f"{name} vanished at slice {last + 1} of axis {case.annotated[plane].axis}, {lost} {seen_last}"
        )
    return said
