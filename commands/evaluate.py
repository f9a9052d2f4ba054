"""Score label maps of any program against the true ones, in both metric conventions."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Generic, TypeVar

from tyro.conf import FlagCreatePairsOff

from commands.predict_files import FILE_HASH
from evaluation.class_values import ClassValues, check_predicted, classes_of_values, find_classes
from evaluation.label_folders import (
    NAMED,
    FolderPairs,
    LabelPair,
    PairScores,
    find_pairs,
    label_values,
    score_pair,
)
from evaluation.masks import TOLERANCE
from evaluation.results import (
    PREDICTED_WITH,
    SUMMARY_FILE,
    EvaluationResult,
    summarise,
    table,
    write_results,
)
from evaluation.tolerance import class_tolerances
from scans.faults import report_faults
from utils.errors import UserError, writing
from utils.files import remove_unfinished
from utils.json_file import read_json
from utils.lock import only_writer
from utils.messages import error_message, message
from utils.names import printable
from utils.progress import progress
from utils.provenance import provenance
from utils.workers import ended_processes, terminated, worker_pool

SHOWN = 20  # faults that are printed
T = TypeVar("T")


@dataclass(frozen=True)
class ScoringSettings:
    """Which predictions to score against which labels."""

    predictions: Path
    """Folder of label maps (NIfTI, NRRD, MHA) with the names of the labels. CASE_pred.nii.gz is
    accepted too."""
    labels: Path
    """Folder of the true labels, CASE.nii.gz, such as nnU-Net's labelsTs. Each needs a
    prediction."""
    output: Path | None = None
    """Folder for metrics.csv and summary.json. Default: --predictions."""
    classes: Path | None = None
    """nnU-Net's dataset.json, or a plan.json, whose classes are scored. Default: one in --labels,
    next to it, or in --predictions; otherwise the values of the labels."""
    subset: FlagCreatePairsOff[bool] = False
    """Score only the cases that have a prediction, such as one fold. Labels without one are omitted
    and counted."""
    ignore_geometry: FlagCreatePairsOff[bool] = False
    """Compare voxel by voxel where the headers of prediction and label disagree, as nnU-Net
    does."""
    nsd_tolerance: tuple[str, ...] = (f"{TOLERANCE:g}",)
    """Distance up to which NSD counts borders as equal, in mm (nsd_voxel: in voxels). One number,
    or CLASS=NUMBER for single classes, or both: 2 tumour=1."""
    workers: int = 0
    """Number of processes; 0: one for each processor. Each holds one case at a time."""

    def check(self) -> None:
        """Raise UserError for values that cannot be used."""
        for flag, folder in (("--predictions", self.predictions), ("--labels", self.labels)):
            if not folder.is_dir():
                raise UserError(f"{flag} {folder}: no such folder; check the path")
        if self.predictions.resolve() == self.labels.resolve():
            raise UserError(
                f"--predictions {self.predictions}: is the folder of the labels too; name two "
                f"folders"
            )
        if self.workers < 0:
            raise UserError(
                f"--workers {self.workers}: give a number of processes, or 0 for one per processor"
            )


@dataclass(frozen=True)
class ScoringResult:
    """The results of a scored folder, or, if nothing was written, the faults, one line each."""

    results: EvaluationResult | None
    faults: tuple[str, ...] = ()


@dataclass(frozen=True)
class _PairResult(Generic[T]):
    """What was computed from a pair of files, or why that failed."""

    value: T | None
    fault: str = ""


def run(settings: ScoringSettings) -> ScoringResult:
    """Score predictions and write metrics.csv and summary.json.

    Nothing is written if a case cannot be scored: means over the other cases would be those of
    another test list.
    """
    settings.check()
    output = settings.output or settings.predictions
    with only_writer(output, "name another folder with --output"):
        return _score(settings, output)


def _score(settings: ScoringSettings, output: Path) -> ScoringResult:
    _check_output(output / SUMMARY_FILE, settings)
    folders = find_pairs(settings.predictions, settings.labels)
    faults = _report_unpaired(settings, folders)
    classes = find_classes(settings.classes, settings.labels, settings.predictions)
    if classes is not None:
        check_predicted(classes, settings.predictions)
    scored: list[PairScores] = []
    workers = min(settings.workers or os.cpu_count() or 1, len(folders.pairs))
    with ended_processes(""), terminated("nothing was written"), _pool(workers) as pool:
        if classes is None:
            values, reading_faults = _map(pool, "reading labels", folders.pairs, label_values)
            faults += reading_faults
            classes = classes_of_values(chain.from_iterable(values))
            if not classes.values and not faults:
                raise UserError(
                    f"--labels {settings.labels}: all labels are empty; name the folder of the "
                    f"true ones, or --classes"
                )
        if not faults:
            work = partial(
                score_pair,
                classes=classes,
                ignore_geometry=settings.ignore_geometry,
                tolerances=class_tolerances(settings.nsd_tolerance, tuple(classes.values)),
            )
            scored, faults = _map(pool, "scoring", folders.pairs, work)
    for one in scored:
        for line in one.warnings:
            message(f"warning: {printable(line)}")
    if faults:
        _report_faults(faults)
        return ScoringResult(None, faults=tuple(faults))
    return ScoringResult(_write(settings, output, classes, folders=folders, scored=scored))


def _report_unpaired(settings: ScoringSettings, folders: FolderPairs) -> list[str]:
    """Warn of predictions without a label, and return a line for each missing prediction."""
    if folders.surplus:
        names = ", ".join(folders.surplus[:NAMED])
        if len(folders.surplus) > NAMED:
            names += " ..."
        message(
            f"warning: {settings.predictions}: {len(folders.surplus)} predictions without label "
            f"are omitted ({printable(names)})"
        )
    if settings.subset:
        return []
    faults: list[str] = []
    for name in folders.missing:
        faults.append(
            f"{settings.predictions}: no prediction of {name}; predict it, or score only the cases "
            f"that have one with --subset"
        )
    return faults


def _report_faults(faults: Sequence[str]) -> None:
    for line in faults[:SHOWN]:
        error_message(f"not scored: {printable(line)}")
    more = ""
    if len(faults) > SHOWN:
        more = f" ({len(faults) - SHOWN} more)"
    error_message(
        f"{len(faults)} faults{more}: nothing was written, since means over some of the cases are "
        f"those of another list"
    )


def _write(
    settings: ScoringSettings,
    output: Path,
    classes: ClassValues,
    folders: FolderPairs,
    scored: Sequence[PairScores],
) -> EvaluationResult:
    """Write metrics.csv and summary.json, and print the table."""
    scores = list(chain.from_iterable(one.scores for one in scored))
    hashes: dict[str, str] = {}
    file_hashes: dict[Path, str] = {}
    for pair, one in zip(folders.pairs, scored, strict=True):
        hashes[pair.name] = one.sha256
        file_hashes[pair.prediction] = one.sha256
    summary = {
        "dataset": classes.name or settings.labels.resolve().parent.name,
        "split": settings.labels.name,
        "cases": len(folders.pairs),
        "left_out": list(folders.missing),
        "classes": classes.plain(),
        "predictions": str(settings.predictions),
        "labels": str(settings.labels),
        "prediction_sha256": hashes,
        **summarise(scores),
        **_predicted(settings.predictions, file_hashes),
        **provenance(),
    }
    with writing(output, "free space or name another folder with --output"):
        remove_unfinished(output, below=False)
        write_results(output, scores, summary)
    names = printable(", ".join(classes.values))
    message(f"{len(folders.pairs)} cases; classes from {classes.source}: {names}")
    message(printable(table(summary)))
    message(f"metrics.csv and summary.json are in {output}")
    return EvaluationResult(output, scores=tuple(scores), summary=summary)


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor | None]:
    """A pool of processes; None for one process, whose start would only cost time."""
    if workers < 2:
        yield None
        return
    with worker_pool(workers) as pool:
        yield pool


def _map(
    pool: ProcessPoolExecutor | None,
    description: str,
    pairs: Sequence[LabelPair],
    work: Callable[[LabelPair], T],
) -> tuple[list[T], list[str]]:
    """Call `work` for each pair.

    Returns the results and the faults, each in the order of the pairs.
    """
    results: list[_PairResult[T]] = []
    with progress(total=len(pairs), desc=description, unit="case") as bar:
        if pool is None:
            for pair in pairs:
                results.append(_caught(work, pair))
                bar.update()
        else:
            jobs = [pool.submit(_caught, work, pair) for pair in pairs]
            for _ in as_completed(jobs):
                bar.update()
            results = [job.result() for job in jobs]
    values = [result.value for result in results if result.value is not None]
    faults = [result.fault for result in results if result.fault]
    return values, faults


def _caught(work: Callable[[LabelPair], T], pair: LabelPair) -> _PairResult[T]:
    """The result of `work`, or its error as one line."""
    faults: list[str] = []
    with report_faults(pair.prediction, faults.append):
        return _PairResult(work(pair))
    return _PairResult(None, fault=faults[0])


def _check_output(path: Path, settings: ScoringSettings) -> None:
    """Raise UserError if a summary.json holds results of other predictions or labels.

    nnU-Net writes one of its own next to validation predictions.
    """
    if not path.exists():
        return
    summary: object = {}
    with suppress(OSError, ValueError):
        summary = read_json(path)
    if not isinstance(summary, dict) or "as_published" not in summary:
        raise UserError(
            f"{path}: was written by another program, nnU-Net perhaps, and would be lost; name "
            f"another folder with --output"
        )
    for flag, folder in (("predictions", settings.predictions), ("labels", settings.labels)):
        scored = summary.get(flag)
        if not isinstance(scored, str):
            raise UserError(
                f"{path}: holds the results of a test, not of evaluate.py, and they would be lost; "
                f"name another folder with --output"
            )
        if Path(scored).resolve() != folder.resolve():
            raise UserError(
                f"{path}: holds the results of other {flag} ({scored}), which would be lost; name "
                f"another folder with --output"
            )


def _predicted(predictions: Path, hashes: Mapping[Path, str]) -> dict[str, Any]:
    """What predict.py recorded of the predictions: the entries `checkpoint` and `predicted_with`.

    They are None and empty for predictions of other programs and of several networks. `hashes`: the
    SHA-256 of each scored file. If one differs from the recorded hash, a warning is printed, and
    the entries are None and empty too.
    """
    unknown = {"checkpoint": None, PREDICTED_WITH: {}}
    try:
        content = read_json(predictions / "predict.json")
        (checkpoint,) = content["checkpoints"]
        checkpoint = dict(checkpoint)
        made_with = dict(content.get("made_with", {}))
        recorded = {case["file"]: case.get(FILE_HASH) for case in content["cases"].values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return unknown
    for path, digest in hashes.items():
        name = path.relative_to(predictions).as_posix()
        if name not in recorded or recorded[name] not in (None, digest):
            message(
                f"warning: {printable(str(path))} is not the file that predict.json describes, so "
                f"summary.json names no checkpoint"
            )
            return unknown
    for key in ("checkpoints", "preparation"):  # they follow from the checkpoint
        made_with.pop(key, None)
    return {"checkpoint": checkpoint, PREDICTED_WITH: made_with}
