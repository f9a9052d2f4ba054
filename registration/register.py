"""Registration of CoGRNet: two annotated slices of each labelled volume become two coarse 3-D labels (px, py), then their report."""

import csv
import hashlib
import json
import os
import signal
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import h5py
import numpy as np

from dataloaders.coarse import WORDS, Annotation, coarse_path, read_annotation, training_label
from dataloaders.facts import KITS19, LA, LITS, DatasetFacts
from dataloaders.hdf5 import check_root, read_case
from recipes.coarse_picture import draw_case
from recipes.paths import data_root
from utils.cli import parse
from utils.errors import Interrupted, UserError, writing
from utils.files import replacing
from utils.metrics import mask_metrics
from utils.progress import progress
from utils.provenance import provenance
from utils.registration import Guide, carry, fuse, scale_255, signed_distance
from utils.workers import worker_pool

DATASETS = {facts.name: facts for facts in (LA, KITS19, LITS)}
# A label is said to have vanished too early where the other plane's annotated slice shows the object this many slices further.
# Planes disagree strongly where their labels' Dice is lower: ten LA volumes gave 0.51 to 0.74 as published, 0.81 to 0.87 improved,
# the lowest for the worst labels. Neither looks at dense truth.
EARLY_SLICES = 3
DISAGREEMENT = {"published": 0.55, "improved": 0.75}
COLUMNS = (
    *("case", "plane", "axis", "annotated_slice", "slices", "first_slice", "last_slice", "died_below", "died_above"),
    *("beyond_other_plane", "failed_registrations", "agreement", "seconds"),
)
TRUTH_COLUMNS = ("dice_coarse", "dice_training")


@dataclass(frozen=True)
class RegistrationSettings:
    dataset: Literal["LA", "KiTS19", "LiTS"]
    """The data set."""
    labelnum: int = 5
    """How many cases of the train list are labelled: the first ones."""
    root_path: Path | None = None
    """Folder of the data set; default: data_split/<dataset> in the repository. The coarse labels are written beside its files."""
    planes: tuple[str, str] | None = None
    """The annotated slice of each plane: its number, or middle (of the axis). For an annotator who sees the object also: object (its
    middle) or drawn (the slice that holds most of it: the annotated one where only two are drawn); to choose, these two read the whole
    label. Default: the published ones."""
    transform: Literal["SyN", "SyNRA"] = "SyN"
    """ANTs registration: affine and SyN (what the published code really ran), or rigid, affine and SyN (what it meant to)."""
    propagation: Literal["published", "improved"] = "published"
    """Each plane alone, to the volume's ends; or each guided by the other plane's annotated slice, then both fused."""
    seed: int = 1337
    """Seed of ANTs' sampling; the same seed gives identical files."""
    workers: int = 0
    """Processes, one thread each; 0: one a processor."""
    redo: bool = False
    """Overwrite coarse labels that were made with other settings; without it they are an error. Those made with the same are kept."""
    report_against_truth: bool = False
    """Also report Dice against the dense label, which nothing else looks at."""
    output_dir: Path | None = None
    """Where registration.csv, summary.json and a picture a case go (they show scans); default: <root_path>/coarse_report."""


@dataclass(frozen=True)
class Case:
    name: str
    path: Path
    drawn: tuple[Annotation, Annotation]

    @property
    def coarse(self) -> tuple[Path, Path]:
        return coarse_path(self.path, 0), coarse_path(self.path, 1)


def register(argv: Sequence[str] | None = None, description: str | None = None) -> None:
    """Make and report coarse labels; see `RegistrationSettings`."""
    s = parse(RegistrationSettings, argv, description=description)
    facts, root = DATASETS[s.dataset], data_root(s.dataset, s.root_path)
    check_root(root, s.dataset)
    cases = _labelled_cases(s, facts, root)
    output = s.output_dir or root / "coarse_report"
    with writing(output, "free space or name another place with --output_dir"):
        output.mkdir(parents=True, exist_ok=True)
    seconds = _make(s, facts, [case for case in cases if not _finished(s, facts, case)], len(cases))
    rows, warnings = _report(s, facts, cases, seconds, output)
    for warning in warnings:
        print(f"warning: {warning}")
    print(_table(rows))
    print(f"coarse labels of {len(cases)} cases lie beside their files; registration.csv, summary.json and pictures are in {output}")


def _labelled_cases(s: RegistrationSettings, facts: DatasetFacts, root: Path) -> list[Case]:
    names = facts.read_list(root, facts.train_list)
    if not 1 <= s.labelnum <= len(names):
        raise UserError(f"--labelnum {s.labelnum}: {facts.train_list} has {len(names)} cases, name 1 to {len(names)}")
    if s.workers < 0:
        raise UserError(f"--workers {s.workers}: a number of processes, or 0 for one a processor")
    planes = [_plane(word) for word in s.planes or ()]
    paths = [(name, facts.path(root, name)) for name in names[: s.labelnum]]
    # every case is looked at before the first is registered: a fault in the last must not show after hours
    return [Case(name, path, read_annotation(path, facts, planes)) for name, path in paths]


def _plane(word: str) -> int | str:
    if word in WORDS:
        return word
    if not word.isdecimal():
        raise UserError(f"--planes {word}: a slice number, counted from 0, or one of {', '.join(WORDS)} is expected for each plane")
    return int(word)


def _attributes(s: RegistrationSettings, case: Case, plane: int, image: np.ndarray) -> dict:
    """What a coarse label depends on."""
    digest = hashlib.sha256(np.ascontiguousarray(image))
    for drawn in case.drawn if s.propagation == "improved" else case.drawn[plane : plane + 1]:
        digest.update(f"{drawn.axis} {drawn.index}".encode() + np.ascontiguousarray(drawn.mask).tobytes())
    return {
        "coarse_axis": case.drawn[plane].axis,
        "coarse_slice": case.drawn[plane].index,
        "coarse_transform": s.transform,
        "coarse_propagation": s.propagation,
        **({"coarse_intensities": "whole"} if s.propagation == "published" else {}),  # older files were made of fractions
        "coarse_seed": s.seed,
        "coarse_input_sha256": digest.hexdigest(),
    }


def _finished(s: RegistrationSettings, facts: DatasetFacts, case: Case) -> bool:
    """Whether both coarse files are there, intact and made with these settings; raises UserError for other ones unless --redo."""
    intact = 0
    image = None
    for plane, path in enumerate(case.coarse):
        if not path.exists():
            continue
        try:
            _, _, attributes = _read_coarse(path, facts)
        except UserError as error:
            print(f"made again: {error}")
            continue
        image = read_case(case.path, facts.file_classes, facts.dims, label=False)[0] if image is None else image
        for key, value in _attributes(s, case, plane, image).items():
            if attributes.get(key) == value:
                continue
            if not s.redo:
                what = key.removeprefix("coarse_").replace("input_sha256", "image or annotation")
                raise UserError(
                    f"{path}: made with another {what}{'' if 'sha256' in key else f' ({attributes.get(key)}, now {value})'}; "
                    f"--redo makes the coarse labels again, or move it away"
                )
            return False
        intact += 1
    return intact == 2


def _make(s: RegistrationSettings, facts: DatasetFacts, cases: Sequence[Case], total: int) -> dict[str, list[float]]:
    """Register the cases and write their files, each as soon as its four directions are done; processor seconds of each
    case's planes."""
    workers = s.workers or os.cpu_count() or 1
    seconds: dict[str, list[float]] = {}
    if not cases:
        return seconds
    waiting: deque = deque()
    try:
        with (
            _terminated(),
            progress(total=4 * total, initial=4 * (total - len(cases)), desc="registering", unit="direction") as bar,
            worker_pool(min(workers, 4 * len(cases))) as pool,
        ):
            for case in cases:
                image, _, kept = read_case(case.path, facts.file_classes, facts.dims, label=False)
                jobs = _submit(s, pool, case, image)
                for job in jobs:
                    job.add_done_callback(lambda job: job.cancelled() or bar.update())
                waiting.append((case, image, kept, jobs))
                if len(waiting) > workers // 4 + 1:  # no more volumes in memory than keep every process busy
                    seconds |= _write(s, *waiting.popleft())
            while waiting:
                seconds |= _write(s, *waiting.popleft())
    except BrokenProcessPool:
        raise UserError("a process ended unexpectedly (no memory left?); run again with fewer --workers, finished cases are kept") from None
    return seconds


@contextmanager
def _terminated() -> Iterator[None]:
    """A scheduler's SIGTERM ends the work as Ctrl-C does: with nothing half-written, and no process left behind."""

    def stop(number: int, frame) -> None:
        raise Interrupted("terminated; the same command continues", 128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _submit(s: RegistrationSettings, pool: ProcessPoolExecutor, case: Case, image: np.ndarray) -> list[Future]:
    """Start the four directions of a case: each plane's annotated slice towards the axis's start and its end."""
    jobs = []
    scaled = scale_255(image, whole=s.propagation == "published")
    for own, other in (case.drawn, case.drawn[::-1]):
        for part, guide in directions(own, other if s.propagation == "improved" else None, image.shape[own.axis]):
            slices = np.ascontiguousarray(np.moveaxis(scaled, own.axis, 0)[part])
            jobs.append(pool.submit(_timed, slices, own.mask, s.transform, s.seed, guide))
    return jobs


def _timed(*arguments) -> tuple:
    start = time.process_time()  # not the clock: processes may share a processor
    return carry(*arguments), time.process_time() - start


def directions(own: Annotation, other: Annotation | None, length: int) -> list[tuple[np.ndarray, Guide | None]]:
    """Slice numbers, annotated one first, of both directions, to the axis's ends; with the other plane's annotated slice also what
    that tells of each slice, and only to where the object ends on it."""
    first, last, guide = 0, length - 1, None
    if other is not None:
        lines = np.moveaxis(other.mask > 0, own.axis - (own.axis > other.axis), 0)
        distance = np.moveaxis(signed_distance(other.mask > 0), own.axis - (own.axis > other.axis), 0)
        if lines[own.index].any():  # else it shows another part of the object, whose ends say nothing about this one
            first, last = np.flatnonzero(lines.any(1))[[0, -1]]
    parts = np.arange(own.index, first - 1, -1), np.arange(own.index, last + 1)
    if other is not None:
        guides = [Guide(distance[part], other.axis - (other.axis > own.axis), other.index) for part in parts]
        return list(zip(parts, guides, strict=True))
    return [(part, guide) for part in parts]


def assemble(case: Case, shape: tuple[int, ...], carried: Sequence, improved: bool) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The two planes' labels as volumes, as carried and as training is to read them; `carried` in the order of `_submit`."""
    alone = []
    for (own, other), down, up in zip((case.drawn, case.drawn[::-1]), carried[::2], carried[1::2], strict=True):
        label = np.zeros(shape, np.uint8)
        view = np.moveaxis(label, own.axis, 0)
        for (part, _), found in zip(directions(own, other if improved else None, shape[own.axis]), (down, up), strict=True):
            view[part] = found.label
        alone.append(label)
    if not improved:
        return alone, alone
    both = fuse((alone[0] > 0, alone[1] > 0), tuple((drawn.axis, drawn.index) for drawn in case.drawn))
    for drawn in case.drawn:
        both = training_label(both, drawn)
    return alone, [both, both]


def _write(s: RegistrationSettings, case: Case, image: np.ndarray, kept: dict, jobs: Sequence[Future]) -> dict[str, list[float]]:
    results = [job.result() for job in jobs]
    improved = s.propagation == "improved"
    alone, labels = assemble(case, image.shape, [carried for carried, _ in results], improved)
    for plane, path in enumerate(case.coarse):
        attributes = {
            **kept,
            **_attributes(s, case, plane, image),
            "coarse_planes": " ".join(s.planes or ("published",)),
            "coarse_failed": sum(carried.failed for carried, _ in results[2 * plane : 2 * plane + 2]),
            "coarse_versions": ", ".join(f"{name} {version(name)}" for name in ("antspyx", "numpy", "scipy")),
        }
        data = {"image": image, "label": labels[plane]}
        if improved:  # what the plane gave before both were fused, for the report
            data["carried"] = alone[plane]
        with (
            writing(path, "free space, or copy the data where files can be written"),
            replacing(path) as unfinished,
            h5py.File(unfinished, "w") as file,
        ):
            for key, array in data.items():
                file.create_dataset(key, data=array, compression="gzip")
            file.attrs.update(attributes)
    return {case.name: [sum(taken for _, taken in results[2 * plane : 2 * plane + 2]) for plane in (0, 1)]}


def _report(s: RegistrationSettings, facts: DatasetFacts, cases: Sequence[Case], seconds: dict, output: Path) -> tuple[list, list]:
    rows, warnings = [], []
    with writing(output, "free space or name another place with --output_dir"):
        for case in progress(cases, desc="reporting", unit="case"):
            image, truth, _ = read_case(case.path, facts.file_classes, facts.dims, label=s.report_against_truth)
            truth = None if truth is None else facts.task_label(truth)
            labels, alone, attributes = zip(*(_read_coarse(path, facts) for path in case.coarse), strict=True)
            agreement = mask_metrics(*alone).dice
            for plane in (0, 1):
                row = figures(case, plane, alone[plane])
                taken = f"{seconds[case.name][plane]:.1f}" if case.name in seconds else ""
                row |= {"failed_registrations": int(attributes[plane]["coarse_failed"]), "agreement": f"{agreement:.4f}", "seconds": taken}
                if truth is not None:
                    row["dice_coarse"] = f"{mask_metrics(labels[plane], truth).dice:.4f}"
                    row["dice_training"] = f"{mask_metrics(training_label(labels[plane], case.drawn[1 - plane]), truth).dice:.4f}"
                rows.append(row)
                warnings += early_end(case, plane, alone[plane])
            if agreement < DISAGREEMENT[s.propagation]:
                limit = DISAGREEMENT[s.propagation]
                warnings.append(
                    f"{case.name}: the two planes' labels agree badly (Dice {agreement:.2f}, below {limit}); look at its picture"
                )
            draw_case(output / f"{case.name}.png", case.name, image, case.drawn, labels, alone, agreement, facts.axes)
        _write_csv(output / "registration.csv", rows, (*COLUMNS, *(TRUTH_COLUMNS if s.report_against_truth else ())))
        with replacing(output / "summary.json") as unfinished:
            unfinished.write_text(json.dumps(_summary(s, rows, warnings), indent=1) + "\n")
    return rows, warnings


def _read_coarse(path: Path, facts: DatasetFacts) -> tuple[np.ndarray, np.ndarray, dict]:
    """The label that training reads, what its plane alone gave, and the file's attributes; raises UserError for a damaged file."""
    _, label, attributes = read_case(path, classes=2, dims=facts.dims)
    try:
        with h5py.File(path, "r") as file:
            return label, file["carried"][()] if "carried" in file else label, attributes
    except (OSError, RuntimeError) as error:
        raise UserError(f"{path}: not a readable HDF5 file ({error}); run the same command again") from None


def _extent(label: np.ndarray, axis: int) -> np.ndarray:
    """First and last slice along `axis` that hold anything."""
    return np.flatnonzero(label.any(axis=tuple(k for k in range(label.ndim) if k != axis)))[[0, -1]]


def _seen_extent(case: Case, plane: int) -> np.ndarray:
    """First and last slice of the plane's axis in which the other plane's annotated slice shows the object."""
    own, other = case.drawn[plane], case.drawn[1 - plane]
    return _extent(other.mask, own.axis - (own.axis > other.axis))


def figures(case: Case, plane: int, label: np.ndarray) -> dict:
    """How far the plane's label reaches: without any truth but the annotated slices."""
    drawn = case.drawn[plane]
    (first, last), (seen_first, seen_last), length = _extent(label, drawn.axis), _seen_extent(case, plane), label.shape[drawn.axis]
    return {
        "case": case.name,
        "plane": "px" if plane == 0 else "py",
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
    (first, last), (seen_first, seen_last) = _extent(label, case.drawn[plane].axis), _seen_extent(case, plane)
    name, lost = f"{case.name}: the {'px' if plane == 0 else 'py'} label", "though the other annotated slice shows the object up to slice"
    said = []
    if first - seen_first > EARLY_SLICES:
        said.append(f"{name} vanished at slice {first - 1} of axis {case.drawn[plane].axis}, {lost} {seen_first}")
    if seen_last - last > EARLY_SLICES:
        said.append(f"{name} vanished at slice {last + 1} of axis {case.drawn[plane].axis}, {lost} {seen_last}")
    return said


def _write_csv(path: Path, rows: Sequence[dict], columns: Sequence[str]) -> None:
    with replacing(path) as unfinished, open(unfinished, "w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def _means(rows: Sequence[dict]) -> dict:
    """Mean of each measured figure over the cases, for each plane."""
    keys = [key for key in ("agreement", *TRUTH_COLUMNS) if key in rows[0]]
    return {plane: {key: float(np.mean([float(r[key]) for r in rows if r["plane"] == plane])) for key in keys} for plane in ("px", "py")}


def _summary(s: RegistrationSettings, rows: Sequence[dict], warnings: Sequence[str]) -> dict:
    return {
        "settings": {key: value if isinstance(value, (int, str)) or value is None else str(value) for key, value in asdict(s).items()},
        "cases": len(rows) // 2,
        "mean": _means(rows),
        "warnings": list(warnings),
        "dense_truth": "read for the Dice columns of this report alone" if s.report_against_truth else "not read",
        **provenance(),
    }


def _table(rows: Sequence[dict]) -> str:
    lines = [f"{'mean over cases':<18}" + "".join(f"{key:>15}" for key in next(iter(_means(rows).values())))]
    return "\n".join(
        lines + [f"  {plane:<16}" + "".join(f"{value:>15.4f}" for value in part.values()) for plane, part in _means(rows).items()]
    )
