"""Put DICOM slices in order, and check that they form one straight and even stack."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scans.dicom_tags import Slice
from scans.geometry import SLANTED, Geometry
from utils.errors import UserError

# Files give positions as decimal text, often rounded to 0.1 mm. A slice may lie this far from its
# place on the even grid, so that rounding passes, and a shift that matters does not.
SLICE_TOLERANCE = 0.1  # slice distances, along the stack ...
MOST_TOLERATED = 0.25  # ... and at most so many mm
PIXEL_TOLERANCE = 0.1  # pixels, within the slice's plane
SAME_PLACE = 1e-3  # mm; thinner slices do not exist
SAME_DIRECTION = 1e-3  # difference of direction cosines
SAME_SPACING = 1e-3  # relative difference


@dataclass(frozen=True, eq=False)
class Grid:
    """Slices in order of rising position along their normal, and the grid that they form.

    The axes of `geometry` are column index, row index, slice index: a right-handed system.
    """

    slices: tuple[Slice, ...]
    geometry: Geometry

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of columns, rows and slices."""
        columns, rows = self.slices[0].size
        return columns, rows, len(self.slices)


def arrange(place: Path, slices: Sequence[Slice]) -> Grid:
    """Order the slices of one scan; `place` is the file or folder that messages name.

    Raises UserError unless they form one straight stack with even distances.
    """
    _check_alike(place, slices)
    first = slices[0]
    normal = np.cross(first.along_row, first.along_column)
    direction = np.column_stack([first.along_row, first.along_column, normal])
    if len(slices) == 1:
        spacing = np.array([*first.spacing, _thickness(first)])
        return Grid((first,), Geometry(spacing, first.position, direction))
    heights = np.array([one.position @ normal for one in slices])
    order = np.argsort(heights, kind="stable")
    ordered = tuple(slices[index] for index in order)
    _check_one_image_per_place(place, ordered, heights[order])
    _check_straight(place, ordered, direction)
    distance = _even_distance(place, ordered, heights[order])
    spacing = np.array([*first.spacing, distance])
    return Grid(ordered, Geometry(spacing, ordered[0].position, direction))


def _check_alike(place: Path, slices: Sequence[Slice]) -> None:
    """UserError unless all slices have a place, and one size, pixel spacing and orientation."""
    first = slices[0]
    for other in slices[1:]:
        if not (first.is_placed and other.is_placed):
            raise UserError(
                f"{place}: images without ImagePositionPatient form no volume; "
                "put each in its own folder, or convert them to NIfTI"
            )
        names = f"{first.name} and {other.name}"
        if other.size != first.size:
            raise UserError(
                f"{place}: slices differ in size: {names} have {first.size[0]} x {first.size[1]} "
                f"and {other.size[0]} x {other.size[1]} pixels; put one scan in the folder"
            )
        if not np.allclose(other.spacing, first.spacing, rtol=SAME_SPACING, atol=0):
            raise UserError(
                f"{place}: slices differ in PixelSpacing: {names} have {first.spacing[0]:g} x "
                f"{first.spacing[1]:g} and {other.spacing[0]:g} x {other.spacing[1]:g} mm; "
                "put one scan in the folder"
            )
    count = _orientations(slices)
    if count > 1:
        raise UserError(
            f"{place}: slices have {count} orientations (a localizer, or several scans in one "
            "series); put one scan in the folder"
        )


def _orientations(slices: Sequence[Slice]) -> int:
    """Number of different orientations."""
    different: list[np.ndarray] = []
    for one in slices:
        directions = np.concatenate([one.along_row, one.along_column])
        if not any(np.abs(directions - known).max() < SAME_DIRECTION for known in different):
            different.append(directions)
    return len(different)


def _thickness(only: Slice) -> float:
    if not only.is_placed:
        return only.thickness or 1.0  # a picture; as other 2-D images are read
    if not only.thickness or only.thickness < 0:
        raise UserError(
            f"{only.file.path}: one slice without SliceThickness, so its third spacing is unknown; "
            "export it again, or convert it to NIfTI"
        )
    return only.thickness


def _check_one_image_per_place(place: Path, ordered: Sequence[Slice], heights: np.ndarray) -> None:
    """UserError for several images at one position, as in time series, diffusion and echoes."""
    is_new = np.diff(heights) > SAME_PLACE
    starts = np.flatnonzero(np.concatenate([[True], is_new]))
    counts = np.diff(np.append(starts, len(ordered)))
    positions = len(starts)
    if positions == 1:
        raise UserError(
            f"{place}: all {len(ordered)} images lie at one position{_difference(ordered)}; "
            "a volume needs slices at different positions"
        )
    if counts.min() > 1:
        several = f"{counts.min()}"
        if counts.max() > counts.min():
            several = f"{counts.min()} to {counts.max()}"
        same = ordered[: int(counts[0])]
        raise UserError(
            f"{place}: {several} images at each of {positions} positions{_difference(same)}; "
            "put one volume in the folder"
        )
    if counts.max() > 1:
        start = int(starts[counts.argmax()])
        first, second = ordered[start : start + 2]
        raise UserError(
            f"{place}: slices are double, {first.name} and {second.name} lie at one position "
            f"({int((counts > 1).sum())} of {positions} positions have several); "
            "remove the slices of other scans"
        )


def _difference(slices: Sequence[Slice]) -> str:
    """For a message: the first mark that differs, with the number of its values."""
    marks = [one.marks() for one in slices]
    for key in marks[0]:
        values = {mark.get(key) for mark in marks}
        if len(values) > 1:
            return f" and differ in {key} ({len(values)} values)"
    return ""


def _check_straight(place: Path, ordered: Sequence[Slice], direction: np.ndarray) -> None:
    """UserError where slices are shifted within their plane, as with a tilted gantry."""
    offsets = np.array([one.position - ordered[0].position for one in ordered]) @ direction
    shifts = offsets[:, :2]
    heights = offsets[:, 2]
    allowed = PIXEL_TOLERANCE * np.array(ordered[0].spacing)
    if (np.abs(shifts) <= allowed).all():
        return
    slope = shifts[-1] / heights[-1]
    angle = np.degrees(np.arctan(np.linalg.norm(slope)))
    remaining = np.abs(shifts - np.outer(heights, slope))
    if (remaining <= allowed).all():
        if np.linalg.norm(slope) <= SLANTED:  # orientations that were rounded to three digits
            return
        digits = 1
        if angle < 0.1:
            digits = 2
        raise UserError(
            f"{place}: the slices are stacked at a slant of {angle:.{digits}f} degrees (a tilted "
            "gantry); resample the scan to a straight grid first, for example with dcm2niix"
        )
    wrong = int(remaining.max(axis=1).argmax())
    raise UserError(
        f"{place}: slices do not lie in one line, {ordered[wrong].name} is shifted by "
        f"{np.linalg.norm(remaining[wrong]):.3g} mm within its plane; put one scan in the folder"
    )


def _even_distance(place: Path, ordered: Sequence[Slice], heights: np.ndarray) -> float:
    """The distance of the slices in mm; UserError where it is not even."""
    number = len(ordered)
    distance = (heights[-1] - heights[0]) / (number - 1)
    expected = heights[0] + distance * np.arange(number)
    allowed = min(SLICE_TOLERANCE * distance, MOST_TOLERATED)
    if np.abs(heights - expected).max() <= allowed:
        return float(distance)
    gaps = np.diff(heights)
    usual = float(np.median(gaps))
    wrong = int(np.abs(gaps - usual).argmax())
    names = f"{ordered[wrong].name} and {ordered[wrong + 1].name}"
    multiples = gaps / usual
    is_whole = np.abs(multiples - np.round(multiples)) <= SLICE_TOLERANCE
    if is_whole.all() and np.round(multiples).min() >= 1 and np.round(multiples).max() > 1:
        missing = int((np.round(multiples) - 1).sum())
        raise UserError(
            f"{place}: slices are missing ({missing}), {names} are {gaps[wrong]:g} mm apart, "
            f"the others {usual:g} mm; download the series again"
        )
    raise UserError(
        f"{place}: slice distances are uneven, {gaps.min():.4g} to {gaps.max():.4g} mm, "
        f"{names} are {gaps[wrong]:.4g} mm apart, most {usual:.4g} mm; "
        "resample the scan to even distances first"
    )
