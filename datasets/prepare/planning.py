"""What is decided once for all cases of somebody's own data, from its training scans."""

import zlib
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np

from dataloaders.plan import Normalisation, Plan
from datasets.prepare.nnunet import RawDataset
from datasets.prepare.prepared_files import RawCase
from scans.geometry import Geometry, lay_onto, to_canonical
from scans.reading import read_header, read_label, read_scan
from utils.errors import UserError
from utils.progress import progress

# Slices more than this many times as thick as pixels are wide are not interpolated: what lies between them was not measured.
# nnU-Net draws the line at the same ratio.
THICK = 3
# V-Net halves a volume four times
FEW_SLICES = 16
# An axis is where the scanner took its slices if its spacing is more than this many times any other: pixels are rarely so oblong.
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
class Measured:
    """Of one training scan, its axes canonical: shape, spacing (mm), and for each CT modality intensities (channels, n) in the label."""

    shape: tuple[int, ...]
    spacing: np.ndarray
    foreground: np.ndarray | None


def make_plan(dataset: RawDataset, dims: int | None, pool: Executor) -> Plan:
    """The plan for the data set; UserError where no training scan can be read, or CT has no labelled voxel to go by."""
    cases = [
        case for case in dataset.cases if case.part in ("train", "unlabelled") and not case.fault
    ]
    ct = any(map(is_ct, dataset.channel_names))
    values = tuple(value for value, _ in dataset.labels)
    jobs = [pool.submit(measure, case, values, ct and case.part == "train") for case in cases]
    done = [job.result() for job in progress(jobs, desc="measuring", unit="case")]
    measured = [one for one in done if isinstance(one, Measured)]
    if not measured:
        faults = [one for one in done if isinstance(one, str)] + [
            case.fault for case in dataset.cases if case.fault
        ]
        raise UserError(
            f"no training scan can be prepared; the first fault: {faults[0] if faults else 'there is none'}"
        )
    # headers hold float32; more digits than these say nothing
    spacing = np.median([one.spacing for one in measured], 0).round(6)
    counts = np.median([one.shape for one in measured], 0)
    axis, axis_reason = slice_axis(spacing, counts)
    why = _reasons(spacing, counts, axis, axis_reason, dims)
    if dims is None:
        dims = _dims(spacing, counts, axis)
    others = _scans_along_another_axis(cases, done, axis, dims)
    if others:
        why["mixed"] = others
    target = _target_spacing(spacing, axis, dims)
    shapes = [_resampled_shape(one, target) for one in measured]
    return Plan(
        name=dataset.name,
        class_names=tuple(name for _, name in dataset.labels),
        label_values=values,
        channel_names=dataset.channel_names,
        normalisation=normalisations(dataset.channel_names, measured),
        dims=dims,
        axes="xyz" if dims == 3 else _slices_first(axis),
        spacing_mm=tuple(target),
        median_spacing_mm=tuple(spacing.tolist()),
        median_shape=tuple(int(n) for n in np.median(shapes, 0)),
        lists={**OWN_LISTS, **(SLICE_LISTS if dims == 2 else {})},
        why=why,
    )


def slice_axis(
    spacing: Sequence[float] | np.ndarray, counts: Sequence[float] | np.ndarray
) -> tuple[int, str]:
    """The canonical axis (0, 1, 2 for x, y, z) that slices are cut along, and why that one.

    `spacing` in mm and `counts` in voxels are the medians along x, y, z. An axis with few voxels wins,
    because the slices of any other would be narrow strips; then the axis with the largest spacing, along
    which the scanner took its slices; then z.
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
    cases: Sequence[RawCase], looked_at: Sequence[Measured | str], axis: int, dims: int
) -> str:
    """A warning where scans have few or thick slices that the plan does not cut them into; empty where none has."""
    names = []
    for case, one in zip(cases, looked_at, strict=True):
        if isinstance(one, str):
            continue
        own_axis, _ = slice_axis(one.spacing, one.shape)
        if _dims(one.spacing, np.array(one.shape), own_axis) == 2 and (
            dims == 3 or own_axis != axis
        ):
            names.append(case.name)
    if not names:
        return ""
    how = "as volumes" if dims == 3 else f"in slices along {DIRECTIONS[axis]}"
    return (
        f"{len(names)} of {len(cases)} training scans ({names[0]} ...) have few or thick slices along "
        f"another axis than most, or most have none; all are trained on {how}. Prepare them by themselves"
    )


def _dims(spacing: np.ndarray, counts: np.ndarray, axis: int) -> int:
    return 2 if _ratio(spacing) > THICK or counts[axis] < FEW_SLICES else 3


def _ratio(spacing: np.ndarray) -> float:
    return float(spacing.max() / spacing.min())


def _reasons(
    spacing: np.ndarray, counts: np.ndarray, axis: int, axis_reason: str, dims: int | None
) -> dict[str, str]:
    """The plan's `why`: of `dims`, and where that is 2 of the axis that slices are cut along."""
    slices = f"{DIRECTIONS[axis]} ({axis_reason})"
    if dims is not None:
        why = {"dims": "--dims"}
    else:
        sizes = " x ".join(f"{mm:g}" for mm in spacing)
        ratio = _ratio(spacing)
        found = f"median spacing {sizes} mm (ratio {ratio:.2g}), median of {counts[axis]:g} slices"
        dims = _dims(spacing, counts, axis)
        if ratio > THICK:
            reason = "2, slices are thick"
        elif dims == 2:
            reason = "2, slices are few"
        else:
            reason = "3, neither thick nor few"
        why = {"dims": f"{found}: {reason}"}
    if dims == 2:
        why["axis"] = f"slices are cut along {slices}"
    return why


def _target_spacing(spacing: np.ndarray, axis: int, dims: int) -> list[float | None]:
    """What scans are resampled to along x, y, z (mm); None: every scan keeps its own spacing.

    It is kept across slices that are trained on one by one, and along every axis whose voxels are so
    thick that what lies between them was not measured.
    """
    target: list[float | None] = []
    for number, mm in enumerate(spacing):
        is_kept = (dims == 2 and number == axis) or mm > THICK * spacing.min()
        target.append(None if is_kept else float(mm))
    return target


def _resampled_shape(one: Measured, target: Sequence[float | None]) -> list[int]:
    shape = []
    for voxels, mm, to in zip(one.shape, one.spacing, target, strict=True):
        shape.append(voxels if to is None else max(round(voxels * mm / to), 1))
    return shape


def _slices_first(axis: int) -> str:
    """The axes of a volume that is stored slice by slice: slices, then rows and columns as ACDC has them."""
    letter = "xyz"[axis]
    return letter + "zyx".replace(letter, "")


def is_ct(channel: str) -> bool:
    """Whether a modality's intensities mean the same in every scan, by the name that nnU-Net gives such a channel."""
    return channel.upper() == "CT"


def normalisations(
    channels: Sequence[str], measured: Sequence[Measured]
) -> tuple[Normalisation, ...]:
    samples = [
        one.foreground for one in measured if one.foreground is not None and one.foreground.size
    ]
    found = []
    for number, channel in enumerate(channels):
        if not is_ct(channel):
            found.append(Normalisation("zscore"))
            continue
        if not samples:
            raise UserError(
                f"no labelled voxel in any training case, which {channel} is normalised by; look at labelsTr"
            )
        values = np.concatenate([sample[number] for sample in samples]).astype(np.float64)
        low, high = np.percentile(values, (0.5, 99.5))
        if values.std() == 0:
            raise UserError(
                f"{channel} is {values[0]:g} in every labelled voxel; look at imagesTr and labelsTr together"
            )
        found.append(
            Normalisation("ct", float(low), float(high), float(values.mean()), float(values.std()))
        )
    return tuple(found)


def measure(case: RawCase, values: tuple[int, ...], intensities: bool) -> Measured | str:
    """Look at a training scan, only at its header unless `intensities`; a fault is returned, since preparing will meet it again."""
    try:
        if intensities:
            scans = [read_scan(path) for path in case.images]
            truth = read_label(case.label, values, "declared in dataset.json")
            inside = (
                lay_onto(
                    str(case.label), truth.array, truth.geometry, scans[0].shape, scans[0].geometry
                )[0]
                > 0
            )
            if any(scan.shape != inside.shape for scan in scans):
                return f"{case.images[0]}: its modalities differ in shape"
            chosen = np.flatnonzero(inside)
            if chosen.size > SAMPLE:
                chosen = np.random.default_rng(zlib.crc32(case.name.encode())).choice(
                    chosen, SAMPLE, replace=False
                )
            return _measured(
                scans[0].geometry,
                scans[0].shape,
                np.stack([scan.array.ravel()[chosen] for scan in scans]),
            )
        shape, geometry = read_header(case.images[0])
        return _measured(geometry, shape, None)
    except UserError as error:
        return str(error)


def _measured(geometry: Geometry, shape: Sequence[int], foreground: np.ndarray | None) -> Measured:
    axes, _ = to_canonical(geometry)
    return Measured(tuple(shape[axis] for axis in axes), geometry.spacing[list(axes)], foreground)
