"""What is decided once for all cases of somebody's own data, from its training scans."""

import zlib
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np

from dataloaders.plan import Normalisation, Plan
from preparation.files import RawCase
from preparation.geometry import Geometry, lay_onto, to_canonical
from preparation.nnunet import RawDataset
from preparation.scans import read_header, read_label, read_scan
from utils.errors import UserError
from utils.progress import progress

# Slices more than this many times as thick as pixels are wide are not interpolated: what lies between them was not measured.
# nnU-Net draws the line at the same ratio.
THICK = 3
# V-Net halves a volume four times
FEW_SLICES = 16
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
    # along the body, unless slices were clearly taken another way
    slices = 2 if spacing[2] * 1.5 >= spacing.max() else int(spacing.argmax())
    ratio = float(spacing.max() / spacing.min())
    count = float(np.median([one.shape[slices] for one in measured]))
    if dims is None:
        dims = 2 if ratio > THICK or count < FEW_SLICES else 3
        said = f"median spacing {' x '.join(f'{mm:g}' for mm in spacing)} mm (ratio {ratio:.2g}), median of {count:g} slices"
        why = f"{said}: {'2, slices are thick' if ratio > THICK else '2, slices are few' if dims == 2 else '3, neither thick nor few'}"
    else:
        why = "--dims"
    target: list[float | None] = [float(mm) for mm in spacing]
    if dims == 2 or ratio > THICK:
        target[slices] = None
    shapes = [
        [
            n if to is None else max(round(n * mm / to), 1)
            for n, mm, to in zip(one.shape, one.spacing, target, strict=True)
        ]
        for one in measured
    ]
    # slices lie along their axis, then rows and columns, as ACDC's do
    axes = (
        "xyz"
        if dims == 3
        else "xyz"[slices] + "".join(axis for axis in "zyx" if axis != "xyz"[slices])
    )
    return Plan(
        name=dataset.name,
        class_names=tuple(name for _, name in dataset.labels),
        label_values=values,
        channel_names=dataset.channel_names,
        normalisation=normalisations(dataset.channel_names, measured),
        dims=dims,
        axes=axes,
        spacing_mm=tuple(target),
        median_spacing_mm=tuple(spacing.tolist()),
        median_shape=tuple(int(n) for n in np.median(shapes, 0)),
        lists={**OWN_LISTS, **(SLICE_LISTS if dims == 2 else {})},
        why={"dims": why},
    )


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
