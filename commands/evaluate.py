"""Scoring label maps that somebody predicted against the true ones: our figures, in both conventions, for everybody's networks."""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from commands.evaluate_settings import ScoringSettings
from commands.predict_files import FILE_HASH
from evaluation.class_values import Classes, check_predicted, classes_of_values, find_classes
from evaluation.results import SUMMARY_FILE, EvaluationResult, summarise, table, write_results
from evaluation.scores import ClassScore, score_masks
from scans.faults import told
from scans.geometry import SAME_GRID, size, turned_onto, voxels_apart
from scans.reading import Scan, listed_values, read_label, read_scan, rounded_label
from scans.scan_files import SCANS, by_case
from utils.cli import parse
from utils.errors import UserError, writing
from utils.files import remove_unfinished
from utils.json_file import read_json
from utils.lock import only_writer
from utils.messages import error_message, message
from utils.names import printable
from utils.progress import progress
from utils.provenance import provenance, sha256
from utils.workers import ended_processes, terminated, worker_pool

SHOWN = 20  # faults of one kind that are printed


@dataclass(frozen=True)
class Pair:
    """One case: its prediction and its label."""

    name: str
    prediction: Path
    label: Path


@dataclass(frozen=True)
class Scored:
    scores: tuple[ClassScore, ...] = ()
    sha256: str = ""  # of the prediction's file
    fault: str = ""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class ScoringResult:
    """The results of a scored folder, or the faults for which nothing was written, one line each."""

    results: EvaluationResult | None
    faults: tuple[str, ...] = ()


def score(argv: Sequence[str] | None = None, description: str | None = None) -> int:
    """Score a folder of predictions; see `ScoringSettings`. Returns 2 where a case could not be scored, and then writes nothing: means over
    the other cases would be those of another test list."""
    result = run(parse(ScoringSettings, argv, description=description))
    return 2 if result.faults else 0


def run(s: ScoringSettings) -> ScoringResult:
    """Score a folder of predictions and write metrics.csv and summary.json, or nothing where a case cannot be scored."""
    s.check()
    output = s.output or s.predictions
    with only_writer(output, "name another folder with --output"):
        return _score(s, output)


def _score(s: ScoringSettings, output: Path) -> ScoringResult:
    _check_output(output / SUMMARY_FILE, s)
    pairs, faults, left_out = find_pairs(s.predictions, s.labels, s.subset)
    classes = find_classes(s.classes, s.labels, s.predictions)
    if classes is not None:
        check_predicted(classes, s.predictions)
    with (
        ended_processes(""),
        terminated("nothing was written"),
        _pool(s.workers, len(pairs)) as pool,
    ):
        if classes is None:
            found = _each(pool, "reading labels", pairs, label_values)
            faults += [one.fault for one in found if isinstance(one, Scored)]
            classes = classes_of_values(
                {value for one in found if not isinstance(one, Scored) for value in one}
            )
            if not classes.values and not faults:
                raise UserError(
                    f"--labels {s.labels}: all labels are empty; name the folder of the true ones, or --classes"
                )
        scored = (
            _each(pool, "scoring", pairs, score_pair, classes, s.ignore_geometry)
            if not faults
            else []
        )
    faults += [one.fault for one in scored if one.fault]
    for one in scored:
        for line in one.warnings:
            message(f"warning: {printable(line)}")
    for line in faults[:SHOWN]:
        error_message(f"not scored: {printable(line)}")
    if faults:
        more = f" ({len(faults) - SHOWN} more)" if len(faults) > SHOWN else ""
        error_message(
            f"{len(faults)} faults{more}: nothing was written, since means over some of the cases are those of another list"
        )
        return ScoringResult(None, faults=tuple(faults))
    scores = [score for one in scored for score in one.scores]
    hashes = {pair.prediction: one.sha256 for pair, one in zip(pairs, scored, strict=True)}
    summary = {
        "dataset": classes.name or s.labels.resolve().parent.name,
        "split": s.labels.name,
        "cases": len(pairs),
        "left_out": left_out,
        "classes": classes.plain(),
        "predictions": str(s.predictions),
        "labels": str(s.labels),
        "prediction_sha256": {pair.name: hashes[pair.prediction] for pair in pairs},
        **summarise(scores),
        "checkpoint": _checkpoint(s.predictions, hashes),
        **provenance(),
    }
    with writing(output, "free space or name another place with --output"):
        remove_unfinished(output, below=False)
        write_results(output, scores, summary)
    names = printable(", ".join(classes.values))
    message(f"{len(pairs)} cases; classes from {classes.source}: {names}")
    message(printable(table(summary)))
    message(f"metrics.csv and summary.json are in {output}")
    return ScoringResult(EvaluationResult(output, scores=tuple(scores), summary=summary))


def find_pairs(
    predictions: Path, labels: Path, subset: bool
) -> tuple[list[Pair], list[str], list[str]]:
    """The cases that both folders have, what is wrong with the folders (a line each), and the cases left out on purpose."""
    truth, predicted = by_case(labels), by_case(predictions)
    if not truth:
        raise UserError(f"--labels {labels}: no label below it; {', '.join(SCANS)} files are taken")
    if not predicted:
        raise UserError(
            f"--predictions {predictions}: no prediction below it; {', '.join(SCANS)} files are taken"
        )
    missing = [name for name in truth if name not in predicted]
    faults = (
        []
        if subset
        else [
            f"{predictions}: no prediction of {name}; predict it, or --subset scores the cases that have one"
            for name in missing
        ]
    )
    surplus = [name for name in predicted if name not in truth]
    if surplus:
        some = ", ".join(surplus[:3]) + (" ..." if len(surplus) > 3 else "")
        message(
            f"warning: {predictions}: {len(surplus)} predictions without label are left out ({printable(some)})"
        )
    pairs = [Pair(name, predicted[name], path) for name, path in truth.items() if name in predicted]
    if not pairs:
        raise UserError(
            f"--predictions {predictions}: none is named as a label of {labels} ({next(iter(predicted))} ..., {next(iter(truth))} ...)"
        )
    return pairs, faults, missing if subset else []


def label_values(pair: Pair) -> tuple[int, ...]:
    """The values that a label holds; UserError unless they are whole numbers."""
    found = np.unique(rounded_label(read_scan(pair.label).array))
    if (found % 1).any() or found[0] < 0 or found[-1] > 65535 or found.size > 256:
        raise UserError(
            f"{pair.label}: holds {listed_values(found)}, expected at most 256 whole numbers from 0 to 65535; name the labels' folder"
        )
    return tuple(int(value) for value in found)


def score_pair(pair: Pair, classes: Classes, ignore_geometry: bool) -> Scored:
    """The figures of one case; UserError where the two files do not belong together."""
    extra = () if classes.ignore is None else (classes.ignore,)
    warnings: list[str] = []
    truth = read_label(pair.label, classes.declared + extra, classes.source, warnings.append)
    predicted = read_label(pair.prediction, classes.declared, classes.source, warnings.append)
    prediction, warning = _onto(pair, predicted, truth, ignore_geometry)
    if warning:
        warnings.append(warning)
    counted = True if classes.ignore is None else truth.array != classes.ignore
    spacing = truth.geometry.spacing
    scores = []
    for name, values in classes.values.items():
        masks = (np.isin(array, values) & counted for array in (prediction, truth.array))
        scores.append(score_masks(pair.name, name, *masks, spacing))
    return Scored(tuple(scores), sha256(pair.prediction), warnings=tuple(warnings))


def _onto(
    pair: Pair, prediction: Scan, truth: Scan, ignore_geometry: bool
) -> tuple[np.ndarray, str]:
    """The prediction voxel by voxel as the truth has it, turned where the headers say so, and a warning."""
    turned = turned_onto(prediction.array, prediction.geometry, truth.shape, truth.geometry)
    if turned is not None:
        return turned, ""
    if prediction.shape != truth.shape:
        sizes = f"{size(prediction.shape)} voxels, its label {size(truth.shape)}"
        raise UserError(
            f"{pair.prediction}: has {sizes}; predict on the grid of the scan, or resample"
        )
    apart = voxels_apart(prediction.geometry, truth.geometry, truth.shape)
    if apart < SAME_GRID:
        return prediction.array, ""
    line = f"{pair.prediction}: by the headers it lies up to {apart:.1f} voxels from its label"
    if not ignore_geometry:
        raise UserError(
            f"{line}; mend the header, or compare voxel by voxel with --ignore_geometry"
        )
    return prediction.array, f"{line}; compared voxel by voxel"


def _pool(workers: int, cases: int):
    """A pool of processes; None for one, whose start would only cost time."""
    workers = min(workers or os.cpu_count() or 1, cases)
    return worker_pool(workers) if workers > 1 else nullcontext()


def _each(
    pool: ProcessPoolExecutor | None, desc: str, pairs: Sequence[Pair], work: Callable, *more
) -> list:
    """What `work` makes of each pair, in their order; a `Scored` with the fault of one that it could not do."""
    with progress(total=len(pairs), desc=desc, unit="case") as bar:
        if pool is None:
            return [bar.update() or _told(work, pair, *more) for pair in pairs]
        jobs = [pool.submit(_told, work, pair, *more) for pair in pairs]
        for _ in as_completed(jobs):
            bar.update()
        return [job.result() for job in jobs]


def _told(work: Callable, pair: Pair, *more):
    faults: list[str] = []
    with told(pair.prediction, faults.append):
        return work(pair, *more)
    return Scored(fault=faults[0])


def _check_output(path: Path, s: ScoringSettings) -> None:
    """UserError for a summary.json with other results than those of the same predictions and labels; nnU-Net leaves one of its own
    next to validation predictions."""
    if not path.exists():
        return
    summary: dict = {}
    with suppress(OSError, ValueError):
        content = read_json(path)
        summary = content if isinstance(content, dict) else {}
    if "as_published" not in summary:
        raise UserError(
            f"{path}: is another program's, nnU-Net's perhaps, and would be lost; name another folder with --output"
        )
    for flag in ("predictions", "labels"):
        scored = summary.get(flag)
        if not isinstance(scored, str):
            raise UserError(
                f"{path}: holds the results of a test, not of evaluate.py, and they would be lost; name another folder with --output"
            )
        if Path(scored).resolve() != getattr(s, flag).resolve():
            raise UserError(
                f"{path}: holds the results of other {flag} ({scored}), which would be lost; name another folder with --output"
            )


def _checkpoint(predictions: Path, hashes: Mapping[Path, str]) -> dict | None:
    """What predict.py noted of the one network that made the predictions; None for other programs' and for several networks.

    `hashes`: the SHA-256 of each scored file. Where one is not the file that predict.py noted, a warning is printed, and the result is
    None too.
    """
    try:
        content = read_json(predictions / "predict.json")
        (about,) = content["checkpoints"]
        checkpoint = dict(about)
        noted = {record["file"]: record.get(FILE_HASH) for record in content["cases"].values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    for path, digest in hashes.items():
        name = path.relative_to(predictions).as_posix()
        if name not in noted or noted[name] not in (None, digest):
            message(
                f"warning: {printable(str(path))} is not the file that predict.json describes, so summary.json names no checkpoint"
            )
            return None
    return checkpoint
