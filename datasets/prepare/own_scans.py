"""Prepare own scans by their plan: canonical axes, one spacing, normalised intensities, class
numbers without gaps.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from dataloaders.hdf5 import ANNOTATED, list_line
from dataloaders.plan import Normalisation, Plan
from datasets.prepare.drawn import Slice, drawn_slices, label_of_slices, only_slice
from datasets.prepare.grid_labels import read_label_on
from datasets.prepare.lists import write_list
from datasets.prepare.prepared_files import (
    GZIP,
    Output,
    RawCase,
    crop_attributes,
    grid_attributes,
    slice_outputs,
    source_attributes,
)
from scans.geometry import Geometry, to_canonical, turn
from scans.reading import Scan
from scans.voxel_file import Warn
from utils.errors import UserError
from utils.names import case_name_fault

# Voxels by which the far ends of two grids may differ and still be one: spacings in headers are
# rounded.
SAME = 0.1
# Parts of a plan that decide what is in the prepared files.
DECISIVE = (
    "label_values",
    "channel_names",
    "normalisation",
    "dims",
    "axes",
    "orientation",
    "spacing_mm",
)


@dataclass(frozen=True)
class OwnPreparation:
    """Prepares the `cases` by the plan.

    Where that trains on slices, training cases are also written slice by slice.
    """

    plan: Plan
    cases: tuple[RawCase, ...]

    @property
    def settings(self) -> dict[str, Any]:
        """The parts of the plan that decide what is in the prepared files."""
        content = self.plan.as_dict()
        return {"dataset": "own", "version": 1} | {key: content[key] for key in DECISIVE}

    @property
    def image_steps(self) -> str:
        """What turns a scan into the input of a network, in words."""
        plan = self.plan
        steps = [f"axes turned to {plan.orientation}"]
        for name, normalisation in zip(plan.channel_names, plan.normalisation, strict=True):
            steps.append(f"{name}: {normalisation.in_words()}")
        for axis, spacing in zip("xyz", plan.spacing_mm, strict=True):
            if spacing is not None:
                steps.append(f"{axis} resampled to {spacing:g} mm")
        return "; ".join(steps)

    @property
    def class_values(self) -> tuple[int, ...]:
        """The value of each class in raw labels."""
        return self.plan.label_values

    def find(self, source: Path) -> list[RawCase]:
        """The cases that the raw layout has."""
        return list(self.cases)

    def splits(self, cases: Sequence[RawCase]) -> dict[str, str]:
        """The split of each case; all are prepared."""
        return {case.name: case.part for case in cases}

    def last_file(self, case: RawCase) -> str:
        """The file of the volume, relative to the root."""
        return self.plan.file.format(case.name)

    def has_slices(self, case: RawCase) -> bool:
        """Whether the plan trains on slices and the case is a training case."""
        return self.plan.dims == 2 and case.part in ("train", "unlabelled")

    def prepare(self, case: RawCase, warn: Warn) -> Iterator[Output]:
        """Yield the slices of a training case where the plan trains on slices, then the volume."""
        plan = self.plan
        scans = case.read_images(warn)
        check_one_grid(scans)
        for scan in scans:
            check_not_constant(scan)
        image, geometry = prepare_image(plan, scans)
        label = None
        annotated = None
        if case.label is not None:
            label, annotated = self._label(case, case.label, scan=scans[0], warn=warn)
        axes = plan.stored
        file_axes = "zyx"
        if plan.dims == 3:
            file_axes = "xyz"
        attributes = grid_attributes(geometry, axes, file_axes=file_axes)
        attributes |= source_attributes(*scans)
        if annotated:
            attributes[ANNOTATED] = np.array(annotated)
        image = without_single_channel(image.transpose(0, *(1 + axis for axis in axes)))
        if label is not None:
            label = np.ascontiguousarray(label.transpose(axes))
        if self.has_slices(case):
            yield from slice_outputs(
                np.moveaxis(image, -3, 0),
                label,
                file_of=partial(plan.slice_file.format, case.name),
                spacing_mm=attributes["spacing_mm"],
            )
        attributes |= crop_attributes((0, 0, 0), scans[0].shape)
        yield Output(
            self.last_file(case), image=image, label=label, attributes=attributes, options=GZIP
        )

    def _label(
        self, case: RawCase, path: Path, scan: Scan, warn: Warn
    ) -> tuple[np.ndarray, tuple[Slice, Slice] | None]:
        """As `prepare_label`, of the label in the file `path`."""
        raw = read_label_on(
            path,
            scan,
            values=self.plan.label_values,
            source="declared in dataset.json",
            warn=warn,
        )
        label, annotated = prepare_label(self.plan, raw, scan.geometry)
        if annotated:
            self._check_drawn_slices_suffice(case)
            return label, annotated
        single = only_slice(label) if label.any() else None
        if single:
            axis, number = single
            warn(
                f"{path}: only one slice has a label, number {number} along {'xyz'[axis]} after "
                "turning, and training treats the others as background; draw the others, or a "
                "second one at a right angle for CoGRNet (docs/cogrnet.md)"
            )
        return label, None

    def _check_drawn_slices_suffice(self, case: RawCase) -> None:
        """Raise UserError for a label of two drawn slices where a complete one is needed."""
        if self.plan.dims == 2:
            raise UserError(
                f"{case.label}: only two slices are annotated, which is CoGRNet's annotation of "
                "volumes; prepare with --dims 3 in another folder"
            )
        if case.part == "train":
            return
        kind = "test case"
        if case.part == "val":
            kind = "validation case (splits_final.json lists these)"
        raise UserError(
            f"{case.label}: only two slices are annotated, but it is a {kind}; those need complete "
            "labels"
        )

    def prepare_picture(self, path: Path, image: np.ndarray) -> np.ndarray:
        """Normalise each channel of a picture by the plan."""
        channels = []
        for normalisation, channel in zip(self.plan.normalisation, image, strict=True):
            channels.append(_normalised(normalisation, channel, path=path))
        return np.stack(channels)

    def prepared_shape(self, shape: Sequence[int], geometry: Geometry) -> tuple[int, ...]:
        """The shape of the prepared volume along x, y, z."""
        axes = list(to_canonical(geometry)[0])
        turned = tuple(shape[axis] for axis in axes)
        return target_size(self.plan, turned, geometry.spacing[axes].tolist()) or turned

    def write_lists(self, root: Path) -> list[str]:
        """Write the lists that the plan names, with the prepared cases in order of their names."""
        warnings = []
        for split, file in self.plan.lists.items():
            part = split.removesuffix("_slices")
            cases = [case for case in self.cases if case.part == part]
            prepared = sorted(case.name for case in cases if self._is_prepared(root, case))
            if len(prepared) < len(cases):
                warnings.append(
                    f"{file} names {len(prepared)} of {len(cases)} cases: the others are not "
                    "prepared"
                )
            if split.endswith("_slices"):
                prepared = [name for case in prepared for name in self._slices(root, case)]
            write_list(root / file, map(list_line, prepared))
        return warnings

    def _is_prepared(self, root: Path, case: RawCase) -> bool:
        """Whether all files exist that training or test need of the case."""
        if case_name_fault(case.name) or not (root / self.last_file(case)).is_file():
            return False
        return not self.has_slices(case) or bool(self._slices(root, case.name))

    def _slices(self, root: Path, case: str) -> list[str]:
        """The names of a case's slices, from the first to the last."""
        names: list[str] = []
        while True:
            file = Path(self.plan.slice_file.format(case, len(names) + 1))
            if not (root / file).is_file():
                return names
            names.append(file.stem)


def check_one_grid(scans: Sequence[Scan]) -> None:
    """Raise UserError where the modalities of a case do not lie on one grid."""
    first = scans[0]
    for scan in scans[1:]:
        fault = grid_fault(scan, first)
        if fault:
            raise UserError(f"{fault}; resample the modalities to one grid")


def grid_fault(scan: Scan, first: Scan) -> str:
    """How the grid of a modality differs from that of the first one; empty where it does not."""
    if scan.shape != first.shape:
        size, expected = (" x ".join(map(str, one.shape)) for one in (scan, first))
        return f"{scan.path}: has {size} voxels, {first.path.name} {expected}"
    tolerance = 0.01 * first.geometry.spacing.min()
    if np.allclose(scan.geometry.affine, first.geometry.affine, atol=tolerance):
        return ""
    return f"{scan.path}: lies on another grid than {first.path.name}"


def check_not_constant(scan: Scan) -> None:
    """Raise UserError for a scan whose voxels are all equal."""
    if scan.array.min() == scan.array.max():
        raise UserError(
            f"{scan.path}: the image is constant (every voxel is {scan.array.flat[0]:g}); export "
            "it again"
        )


def without_single_channel(image: np.ndarray) -> np.ndarray:
    """A contiguous image (channels, ...), without the axis of channels where there is only one."""
    if len(image) == 1:
        image = image[0]
    return np.ascontiguousarray(image)


def prepare_image(plan: Plan, scans: Sequence[Scan]) -> tuple[np.ndarray, Geometry]:
    """Turn, normalise and resample the modalities of a case, all on one grid: (channels, x, y, z)
    float32, and their new grid.
    """
    shape = scans[0].shape
    grid = scans[0].geometry
    axes, flipped = to_canonical(grid)
    turned_grid = grid.turned(axes, flipped, shape)
    turned_shape = tuple(shape[axis] for axis in axes)
    spacing = turned_grid.spacing.tolist()
    size = target_size(plan, turned_shape, spacing)
    channels = []
    for scan, normalisation in zip(scans, plan.normalisation, strict=True):
        turned = turn(scan.array, axes, flipped)
        volume = _normalised(normalisation, turned, path=scan.path)
        if size is not None:
            low = volume.min()
            high = volume.max()
            volume = resample(
                plan, volume, size=size, spacing=spacing, interpolator=sitk.sitkBSpline
            )
            volume.clip(low, high, out=volume)
        channels.append(volume)
    if size is not None:
        step, first = _steps(plan, turned_shape, spacing=spacing, size=channels[0].shape)
        turned_grid = turned_grid.stepped(step.tolist(), first.tolist())
    if len(channels) == 1:
        return channels[0][None], turned_grid
    return np.stack(channels), turned_grid


def _normalised(normalisation: Normalisation, volume: np.ndarray, path: Path) -> np.ndarray:
    """As `Normalisation.apply`. Raises UserError, which names `path`, where that is impossible."""
    try:
        return normalisation.apply(volume)
    except ArithmeticError as error:
        raise UserError(f"{path}: {error}; correct them, or export the scan again") from None


def prepare_label(
    plan: Plan, label: np.ndarray, grid: Geometry
) -> tuple[np.ndarray, tuple[Slice, Slice] | None]:
    """A label with its original values on its image's grid, as class numbers (uint8) on the grid of
    `prepare_image`.

    The second result is where the two slices of the label lie if only these are drawn. They are
    resampled within themselves and stay one voxel thick.
    """
    axes, flipped = to_canonical(grid)
    classes = plan.to_classes(turn(label, axes, flipped))
    spacing = grid.spacing[list(axes)].tolist()
    size = target_size(plan, classes.shape, spacing)
    drawn = drawn_slices(classes)
    if size is None:
        return classes, drawn
    if drawn is None:
        return _resampled_classes(plan, classes, size=size, spacing=spacing), None
    step, first = _steps(plan, classes.shape, spacing=spacing, size=size)
    planes = []
    positions: list[Slice] = []
    for axis, number in drawn:
        plane_size = list(size)
        plane_size[axis] = 1
        plane = _resampled_classes(
            plan, classes.take([number], axis), size=plane_size, spacing=spacing
        )
        planes.append(plane.squeeze(axis))
        position = round((number - first[axis]) / step[axis])
        positions.append((axis, int(np.clip(position, 0, size[axis] - 1))))
    return label_of_slices(planes, positions, shape=size), (positions[0], positions[1])


def _resampled_classes(
    plan: Plan, classes: np.ndarray, size: Sequence[int], spacing: Sequence[float]
) -> np.ndarray:
    """Resample every class linearly and take the strongest one: borders do not get steps as with
    nearest neighbours.
    """
    strongest = np.zeros(size, np.uint8)
    largest_share = np.zeros(size, np.float32)
    for number in np.unique(classes):
        mask = (classes == number).astype(np.float32)
        share = resample(plan, mask, size=size, spacing=spacing, interpolator=sitk.sitkLinear)
        strongest[share > largest_share] = number
        np.maximum(largest_share, share, out=largest_share)
    return strongest


def _target_spacing(plan: Plan, spacing: Sequence[float]) -> list[float]:
    """The plan's spacing (mm), and the scan's own one along the axes that are not resampled."""
    target = []
    for scan_mm, planned_mm in zip(spacing, plan.spacing_mm, strict=True):
        if planned_mm is None:
            target.append(scan_mm)
        else:
            target.append(planned_mm)
    return target


def target_size(
    plan: Plan, shape: Sequence[int], spacing: Sequence[float]
) -> tuple[int, ...] | None:
    """Voxels along x, y, z at the plan's spacing, over the same field of view; None where the scan
    has that spacing already.
    """
    size = []
    is_same = True
    target = _target_spacing(plan, spacing)
    for voxels, mm, planned in zip(shape, spacing, target, strict=True):
        size.append(max(round(voxels * mm / planned), 1))
        is_same &= voxels * abs(mm / planned - 1) < SAME
    if is_same and size == list(shape):
        return None
    return tuple(size)


def _steps(
    plan: Plan, shape: Sequence[int], spacing: Sequence[float], size: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Distance of two new voxels and position of the first one, in old voxels: both grids have one
    centre.
    """
    step = np.divide(_target_spacing(plan, spacing), spacing)
    return step, (np.array(shape) - 1) / 2 - step * (np.array(size) - 1) / 2


def resample(
    plan: Plan,
    array: np.ndarray,
    size: Sequence[int],
    spacing: Sequence[float],
    interpolator: int,
) -> np.ndarray:
    """Resample an array (x, y, z) with this spacing to the plan's, `size` voxels around the same
    centre.
    """
    step, first = _steps(plan, array.shape, spacing=spacing, size=size)
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    grid = (first.tolist(), step.tolist(), image.GetDirection())
    result = sitk.Resample(image, list(size), sitk.Transform(), interpolator, *grid, 0.0)
    return sitk.GetArrayFromImage(result).T
