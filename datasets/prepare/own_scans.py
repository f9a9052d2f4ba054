"""Somebody's own scans as their plan says: canonical axes, one spacing, normalised intensities, classes without gaps."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from dataloaders.hdf5 import ANNOTATED, list_line
from dataloaders.plan import Plan
from datasets.prepare.drawn import Slice, drawn_slices, only_slice, place_slices
from datasets.prepare.lists import write_list
from datasets.prepare.prepared_files import (
    Output,
    RawCase,
    crop_attributes,
    grid_attributes,
    source_attributes,
)
from scans.geometry import Geometry, lay_onto, to_canonical, turn
from scans.reading import Scan, read_label
from utils.errors import UserError
from utils.names import case_name_fault

GZIP = {"compression": "gzip"}
# voxels by which the far ends of two grids may differ and still be one: spacings in headers are rounded
SAME = 0.1


@dataclass(frozen=True)
class OwnPreparation:
    """Prepares the cases of `found` by the plan; where that trains on slices, training cases are written slice by slice as well."""

    plan: Plan
    found: tuple[RawCase, ...]

    @property
    def settings(self) -> dict:
        decided = (
            "label_values",
            "channel_names",
            "normalisation",
            "dims",
            "axes",
            "orientation",
            "spacing_mm",
        )
        content = self.plan.as_dict()
        return {"dataset": "own", "version": 1, **{key: content[key] for key in decided}}

    def find(self, source: Path) -> list[RawCase]:
        return list(self.found)

    def listed(self, line: str) -> str:
        return line

    def mark(self, case: RawCase) -> str:
        return self.plan.file.format(case.name)

    def prepare(self, case: RawCase, warn: Callable[[str | None], None]) -> Iterator[Output]:
        plan = self.plan
        scans = case.read_images(warn)
        first = scans[0]
        for scan in scans[1:]:
            if scan.shape != first.shape:
                sizes = [" x ".join(map(str, one.shape)) for one in (scan, first)]
                raise UserError(
                    f"{scan.path}: has {sizes[0]} voxels, {first.path.name} {sizes[1]}; all modalities must lie on one grid"
                )
            if not np.allclose(
                scan.geometry.affine,
                first.geometry.affine,
                atol=0.01 * first.geometry.spacing.min(),
            ):
                raise UserError(
                    f"{scan.path}: lies on another grid than {first.path.name}; resample the modalities to one grid"
                )
        for scan in scans:
            if scan.array.min() == scan.array.max():
                raise UserError(
                    f"{scan.path}: every voxel is {scan.array.flat[0]:g}, there is nothing to see; export it again"
                )
        image, geometry = prepare_image(plan, scans)
        label = annotated = None
        if case.label is not None:
            truth = read_label(
                case.label,
                plan.label_values,
                "declared in dataset.json",
                warn,
            )
            label, said = lay_onto(
                str(case.label), truth.array, truth.geometry, first.shape, first.geometry
            )
            warn(said)
            label, annotated = prepare_label(plan, label, first.geometry)
            self._check_whole(case, annotated)
            if annotated is None and label.any() and (single := only_slice(label)):
                warn(
                    f"{case.label}: one slice alone holds a label, number {single[1]} along {'xyz'[single[0]]} once turned, and is learnt "
                    f"as if the others were empty; draw the others, or a second one at a right angle for CoGRNet (docs/cogrnet.md)"
                )
        axes = plan.stored
        grid = {
            **grid_attributes(geometry, axes, "xyz" if plan.dims == 3 else "zyx"),
            **source_attributes(*scans),
        }
        if annotated:
            grid[ANNOTATED] = np.array(annotated)
        image = np.ascontiguousarray(image.transpose(0, *(1 + axis for axis in axes)))
        label = None if label is None else np.ascontiguousarray(label.transpose(axes))
        if plan.dims == 2 and case.part in ("train", "unlabelled"):
            for k in range(image.shape[1]):
                within = {"spacing_mm": grid["spacing_mm"][1:], "slice": k}
                file = plan.slice_file.format(case.name, k + 1)
                yield Output(
                    file,
                    one_or_more(image[:, k]),
                    None if label is None else label[k],
                    within,
                    GZIP,
                )
        whole = crop_attributes((0, 0, 0), first.shape)
        yield Output(self.mark(case), one_or_more(image), label, {**grid, **whole}, GZIP)

    def _check_whole(self, case: RawCase, annotated: tuple[Slice, Slice] | None) -> None:
        """UserError for a label of two drawn slices where a whole one is needed."""
        if annotated and self.plan.dims == 2:
            raise UserError(
                f"{case.label}: two drawn slices, from which CoGRNet learns volumes; prepare with --dims 3 elsewhere"
            )
        if annotated and case.part != "train":
            which = {"val": "validation case (splits_final.json says which are)"}.get(
                case.part, "test case"
            )
            raise UserError(
                f"{case.label}: two drawn slices alone, but it is a {which}; those need whole labels"
            )

    def write_lists(self, root: Path) -> list[str]:
        """The lists that the plan names, of the cases that are there, in order of their names."""
        said = []
        for split, file in self.plan.lists.items():
            mine = sorted(
                (case for case in self.found if case.part == split.removesuffix("_slices")),
                key=lambda case: case.name,
            )
            there = [
                case.name
                for case in mine
                if not case_name_fault(case.name) and (root / self.mark(case)).is_file()
            ]
            if len(there) < len(mine):
                said.append(
                    f"{file} names {len(there)} of {len(mine)} cases: the others are not prepared"
                )
            if split.endswith("_slices"):
                there = [name for case in there for name in self.slices(root, case)]
            write_list(root / file, [list_line(name) for name in there])
        return said

    def slices(self, root: Path, case: str) -> list[str]:
        """The names of a case's slices, from the first to the last."""
        names = []
        while (root / self.plan.slice_file.format(case, len(names) + 1)).is_file():
            names.append(Path(self.plan.slice_file.format(case, len(names) + 1)).stem)
        return names


def one_or_more(image: np.ndarray) -> np.ndarray:
    """A channel axis only where there are several channels."""
    return image[0] if len(image) == 1 else image


def prepare_image(plan: Plan, scans: Sequence[Scan]) -> tuple[np.ndarray, Geometry]:
    """The modalities of a case (all on one grid) as (channels, x, y, z) float32 in canonical axes, resampled and normalised; their grid."""
    shape, grid = scans[0].shape, scans[0].geometry
    axes, flipped = to_canonical(grid)
    turned, size = (
        grid.turned(axes, flipped, shape),
        target_size(plan, tuple(shape[axis] for axis in axes), grid.spacing[list(axes)]),
    )
    channels = []
    for scan, normalisation in zip(scans, plan.normalisation, strict=True):
        volume = normalisation.apply(turn(scan.array, axes, flipped))
        if size is not None:
            low, high = volume.min(), volume.max()
            volume = resample(volume, size, plan, turned.spacing, sitk.sitkBSpline)
            volume.clip(low, high, out=volume)
        channels.append(volume)
    grid = turned if size is None else resampled_grid(turned, channels[0].shape, plan, shape, axes)
    return channels[0][None] if len(channels) == 1 else np.stack(channels), grid


def prepare_label(
    plan: Plan, label: np.ndarray, grid: Geometry
) -> tuple[np.ndarray, tuple[Slice, Slice] | None]:
    """A label on its image's grid, original values, as class numbers (uint8) on the grid of `prepare_image`; and of a label that is two
    drawn slices alone, where those lie in it.

    Drawn slices are resampled within themselves and stay one voxel thick.
    """
    axes, flipped = to_canonical(grid)
    classes = plan.to_classes(turn(label, axes, flipped))
    spacing = grid.spacing[list(axes)]
    size, drawn = target_size(plan, classes.shape, spacing), drawn_slices(classes)
    if size is None:
        return classes, drawn
    if drawn is None:
        return _resampled_classes(classes, size, plan, spacing), None
    step, first = _steps(plan, classes.shape, spacing, size)
    planes, places = [], []
    for axis, number in drawn:
        flat = tuple(1 if along == axis else side for along, side in enumerate(size))
        planes.append(
            _resampled_classes(classes.take([number], axis), flat, plan, spacing).squeeze(axis)
        )
        places.append(
            (axis, int(np.clip(round((number - first[axis]) / step[axis]), 0, size[axis] - 1)))
        )
    return place_slices(planes, places, size), tuple(places)


def _resampled_classes(
    classes: np.ndarray, size: Sequence[int], plan: Plan, spacing: Sequence[float]
) -> np.ndarray:
    """Every class is resampled, linearly, and the strongest one wins: borders do not get steps as with nearest neighbours."""
    found, best = np.zeros(size, np.uint8), np.zeros(size, np.float32)
    for number in np.unique(classes):
        share = resample(
            (classes == number).astype(np.float32), size, plan, spacing, sitk.sitkLinear
        )
        found[share > best] = number
        np.maximum(best, share, out=best)
    return found


def target_size(
    plan: Plan, shape: Sequence[int], spacing: Sequence[float]
) -> tuple[int, ...] | None:
    """Voxels along x, y, z at the plan's spacing, over the same field of view; None where the scan has that spacing already."""
    pairs = [
        (n, mm, mm if to is None else to)
        for n, mm, to in zip(shape, spacing, plan.spacing_mm, strict=True)
    ]
    size = tuple(max(round(n * mm / to), 1) for n, mm, to in pairs)
    if size == tuple(shape) and all(n * abs(mm / to - 1) < SAME for n, mm, to in pairs):
        return None
    return size


def _steps(
    plan: Plan, shape: Sequence[int], spacing: Sequence[float], size: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Distance of two new voxels and place of the first one, in old voxels: both grids have one centre."""
    step = np.array(
        [1.0 if to is None else to / mm for mm, to in zip(spacing, plan.spacing_mm, strict=True)]
    )
    return step, (np.array(shape) - 1) / 2 - step * (np.array(size) - 1) / 2


def resample(
    array: np.ndarray, size: Sequence[int], plan: Plan, spacing: Sequence[float], interpolator: int
) -> np.ndarray:
    step, first = _steps(plan, array.shape, spacing, size)
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    grid = (first.tolist(), step.tolist(), image.GetDirection())
    return sitk.GetArrayFromImage(
        sitk.Resample(image, list(size), sitk.Transform(), interpolator, *grid, 0.0)
    ).T


def resampled_grid(
    turned: Geometry, size: Sequence[int], plan: Plan, shape: Sequence[int], axes: Sequence[int]
) -> Geometry:
    step, first = _steps(plan, [shape[axis] for axis in axes], turned.spacing, size)
    return turned.stepped(step, first)
