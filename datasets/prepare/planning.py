"""Decide once for all cases of own data, from the training scans, how they are prepared."""

import zlib
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dataloaders.plan import Normalisation, Plan, mean_and_deviation
from datasets.prepare.grid_labels import read_label_on
from datasets.prepare.nnunet import RawDataset
from datasets.prepare.prepared_files import RawCase
from scans.geometry import Geometry, to_canonical
from scans.reading import read_header, read_scan
from utils.errors import UserError
from utils.progress import progress

# Slices more than this many times as thick as pixels are wide are not interpolated: what lies
# between them was not measured. nnU-Net has the same limit.
THICK = 3
# V-Net halves a volume four times.
FEW_SLICES = 16
# The scanner took its slices along an axis whose spacing is more than this many times any other:
# pixels are rarely so oblong.
CLEARLY = 1.1
DIRECTIONS = ("x, left to right", "y, back to front", "z, foot to head")
SAMPLE = 20_000  # voxels of a case's labelled foreground
OWN_LISTS = {
    "train": "train.list",
    "val": "val.list",
    "test": "test.list",
    "unlabelled": "unlabelled.list",
}
SLICE_LISTS = {"train_slices": "train_slices.list", "unlabelled_slices": "unlabelled_slices.list"}


@dataclass(frozen=True, eq=False)
class MeasuredScan:
    """A training scan along canonical axes: shape, spacing (mm), and for CT the intensities
    (channels, n) inside the label.
    """

    shape: tuple[int, ...]
    spacing: np.ndarray
    foreground: np.ndarray | None


def make_plan(dataset: RawDataset, dims: int | None, pool: Executor) -> Plan:
    """Make the plan of a data set; `dims` is None where the scans decide.

    Raises UserError where no training scan can be read, or no voxel of CT is labelled.
    """
    cases = [
        case for case in dataset.cases if case.part in ("train", "unlabelled") and not case.fault
    ]
    has_ct = any(map(is_ct, dataset.channel_names))
    values = tuple(value for value, _ in dataset.labels)
    jobs = [pool.submit(measure, case, values, has_ct and case.part == "train") for case in cases]
    results = [job.result() for job in progress(jobs, desc="measuring", unit="case")]
    scans = [result for result in results if isinstance(result, MeasuredScan)]
    if not scans:
        raise UserError(_no_scan(dataset, results))
    # headers have float32; more digits than these mean nothing
    spacing = np.median([scan.spacing for scan in scans], 0).round(6)
    counts = np.median([scan.shape for scan in scans], 0)
    axis, axis_reason = slice_axis(spacing, counts)
    why = _reasons(spacing, counts, axis=axis, axis_reason=axis_reason, dims=dims)
    if dims is None:
        dims = _dims(spacing, counts, axis=axis)
    others = _scans_along_another_axis(cases, results, axis=axis, dims=dims)
    if others:
        why["mixed"] = others
    target = _target_spacing(spacing, axis, dims=dims)
    shapes = [_resampled_shape(scan, target) for scan in scans]
    axes = _slices_first(axis)
    lists = OWN_LISTS | SLICE_LISTS
    if dims == 3:
        axes = "xyz"
        lists = OWN_LISTS
    return Plan(
        name=dataset.name,
        class_names=tuple(name for _, name in dataset.labels),
        label_values=values,
        channel_names=dataset.channel_names,
        normalisation=normalisations(dataset.channel_names, scans),
        dims=dims,
        axes=axes,
        spacing_mm=tuple(target),
        median_spacing_mm=tuple(spacing.tolist()),
        median_shape=tuple(int(side) for side in np.median(shapes, 0)),
        lists=lists,
        why=why,
    )


def _no_scan(dataset: RawDataset, results: Iterable[MeasuredScan | str]) -> str:
    faults = [result for result in results if isinstance(result, str)]
    faults += [case.fault for case in dataset.cases if case.fault]
    if not faults:
        faults = ["there is none"]
    return f"no training scan can be prepared; the first fault: {faults[0]}"


def slice_axis(
    spacing: Sequence[float] | np.ndarray, counts: Sequence[float] | np.ndarray
) -> tuple[int, str]:
    """The canonical axis (0, 1, 2 for x, y, z) that slices are cut along, and the reason.

    `spacing` in mm and `counts` in voxels are the medians along x, y, z. An axis with few voxels is
    chosen first, because the slices of any other would be narrow strips; then the axis with the
    largest spacing, along which the scanner took its slices; then z.
    """
    thickest = int(np.argmax(spacing))
    others = [mm for axis, mm in enumerate(spacing) if axis != thickest]
    is_thick = spacing[thickest] > CLEARLY * max(others)
    usual = thickest if is_thick else 2
    # of axes with equally many voxels the last one: along the body
    fewest = min((2, 1, 0), key=lambda axis: counts[axis])
    if counts[fewest] < FEW_SLICES and not (is_thick and 2 * counts[fewest] >= counts[usual]):
        return fewest, f"it has the fewest voxels, {counts[fewest]:g}"
    if is_thick:
        return usual, f"its spacing is the largest, {spacing[usual]:g} mm"
    return usual, "no axis has a clearly larger spacing, or few voxels"


def _scans_along_another_axis(
    cases: Sequence[RawCase], results: Sequence[MeasuredScan | str], axis: int, dims: int
) -> str:
    """A warning where scans have few or thick slices that the plan does not cut them into; empty
    where none has.
    """
    names = []
    for case, scan in zip(cases, results, strict=True):
        if isinstance(scan, str):
            continue
        scan_axis, _ = slice_axis(scan.spacing, scan.shape)
        scan_dims = _dims(scan.spacing, np.array(scan.shape), axis=scan_axis)
        if scan_dims == 2 and (dims == 3 or scan_axis != axis):
            names.append(case.name)
    if not names:
        return ""
    how = "as volumes" if dims == 3 else f"in slices along {DIRECTIONS[axis]}"
    return (
        f"{len(names)} of {len(cases)} training scans ({names[0]} ...) have few or thick slices, "
        "but not along the axis of most scans, or most scans have no such axis. All scans are "
        f"trained on {how}. Prepare these scans as a separate data set"
    )


def _dims(spacing: np.ndarray, counts: np.ndarray, axis: int) -> int:
    if _ratio(spacing) > THICK or counts[axis] < FEW_SLICES:
        return 2
    return 3


def _ratio(spacing: np.ndarray) -> float:
    return float(spacing.max() / spacing.min())


def _reasons(
    spacing: np.ndarray, counts: np.ndarray, axis: int, axis_reason: str, dims: int | None
) -> dict[str, str]:
    """The plan's `why`: of `dims`, and where that is 2 of the axis that slices are cut along."""
    if dims is not None:
        why = {"dims": "chosen by --dims"}
    else:
        sizes = " x ".join(f"{mm:g}" for mm in spacing)
        ratio = _ratio(spacing)
        dims = _dims(spacing, counts, axis=axis)
        if ratio > THICK:
            reason = "slices are thick"
        elif dims == 2:
            reason = "slices are few"
        else:
            reason = "slices are neither thick nor few"
        medians = (
            f"median spacing {sizes} mm (ratio {ratio:.2g}), median number of slices "
            f"{counts[axis]:g}"
        )
        why = {"dims": f"{medians}: {reason}"}
    if dims == 2:
        why["axis"] = f"slices are cut along {DIRECTIONS[axis]} ({axis_reason})"
    return why


def _target_spacing(spacing: np.ndarray, axis: int, dims: int) -> list[float | None]:
    """What scans are resampled to along x, y, z (mm); None: every scan keeps its own spacing.

    The spacing is kept along the axis that slices are cut along, and along every axis whose voxels
    are so thick that what lies between them was not measured.
    """
    target: list[float | None] = []
    for number, mm in enumerate(spacing):
        is_kept = (dims == 2 and number == axis) or mm > THICK * spacing.min()
        if is_kept:
            target.append(None)
        else:
            target.append(float(mm))
    return target


def _resampled_shape(scan: MeasuredScan, target: Sequence[float | None]) -> list[int]:
    shape = []
    for voxels, mm, target_mm in zip(scan.shape, scan.spacing, target, strict=True):
        if target_mm is not None:
            voxels = max(round(voxels * mm / target_mm), 1)
        shape.append(voxels)
    return shape


def _slices_first(axis: int) -> str:
    """The axes of a volume that is stored slice by slice: slices, then rows and columns as ACDC has
    them.
    """
    letter = "xyz"[axis]
    return letter + "zyx".replace(letter, "")


def is_ct(channel: str) -> bool:
    """Whether a modality's intensities mean the same in every scan, by the name that nnU-Net gives
    such a channel.
    """
    return channel.upper() == "CT"


def normalisations(
    channels: Sequence[str], scans: Sequence[MeasuredScan]
) -> tuple[Normalisation, ...]:
    """The normalisation of each channel: of CT by the intensities inside the labels, else a z-score
    per scan.

    Raises UserError where CT has no labelled voxel, or only one intensity in all of them.
    """
    samples = [
        scan.foreground for scan in scans if scan.foreground is not None and scan.foreground.size
    ]
    result = []
    for number, channel in enumerate(channels):
        if is_ct(channel):
            result.append(_ct_normalisation(channel, [sample[number] for sample in samples]))
        else:
            result.append(Normalisation("zscore"))
    return tuple(result)


def _ct_normalisation(channel: str, samples: Sequence[np.ndarray]) -> Normalisation:
    if not samples:
        raise UserError(
            f"no labelled voxel in any training case, by which {channel} is normalised; check "
            "labelsTr"
        )
    values = np.concatenate(samples).astype(np.float64)
    try:
        mean, deviation = mean_and_deviation(values)
    except ArithmeticError as error:
        raise UserError(
            f"{channel}, labelled voxels: {error}; correct the scans in imagesTr"
        ) from None
    if deviation == 0:
        raise UserError(
            f"{channel} is {values[0]:g} in every labelled voxel; compare imagesTr and labelsTr"
        )
    low, high = np.percentile(values, (0.5, 99.5))
    return Normalisation("ct", float(low), float(high), mean, deviation)


def measure(case: RawCase, values: tuple[int, ...], intensities: bool) -> MeasuredScan | str:
    """Measure a training scan; its voxels are read only with `intensities`.

    `values`: which its label may have.

    A fault is returned, because preparing the case will report it again.
    """
    try:
        if intensities and case.label is not None:
            return _measure_intensities(case, case.label, values=values)
        shape, geometry = read_header(case.images[0])
        return _measured(geometry, shape, foreground=None)
    except UserError as error:
        return str(error)


def _measure_intensities(case: RawCase, label: Path, values: tuple[int, ...]) -> MeasuredScan | str:
    scans = [read_scan(path) for path in case.images]
    first = scans[0]
    inside = read_label_on(label, first, values=values, source="declared in dataset.json") > 0
    if any(scan.shape != inside.shape for scan in scans):
        return f"{case.images[0]}: its modalities differ in shape"
    chosen = np.flatnonzero(inside)
    if chosen.size > SAMPLE:
        rng = np.random.default_rng(zlib.crc32(case.name.encode()))
        chosen = rng.choice(chosen, SAMPLE, replace=False)
    foreground = np.stack([scan.array.ravel()[chosen] for scan in scans])
    return _measured(first.geometry, first.shape, foreground=foreground)


def _measured(
    geometry: Geometry, shape: Sequence[int], foreground: np.ndarray | None
) -> MeasuredScan:
    axes = list(to_canonical(geometry)[0])
    turned = tuple(shape[axis] for axis in axes)
    return MeasuredScan(turned, spacing=geometry.spacing[axes], foreground=foreground)
