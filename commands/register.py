"""Make CoGRNet's coarse labels from two annotated slices per volume.

Each labelled volume gets two coarse 3-D labels (px, py); a report describes them.
"""

import hashlib
import os
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from dataloaders.coarse import WORDS, read_annotation, read_coarse, read_image, write_coarse
from dataloaders.dataset_info import DatasetInfo
from dataloaders.hdf5 import ANNOTATED, check_root, content_fault
from dataloaders.plan import read_plan
from datasets.base import DatasetSpec, data_root
from datasets.own import own_two_slices
from datasets.registry import find_dataset
from registration.coarse_labels import AGAIN, AnnotatedCase, assemble, directions
from registration.label_report import report
from registration.propagation import Carried, Guide, carry, scale_255
from registration.settings import RegistrationSettings
from utils.errors import UserError
from utils.files import remove_unfinished
from utils.lock import only_writer
from utils.messages import message
from utils.progress import progress
from utils.workers import check_processes, ended_processes, terminated, worker_pool

# A direction's result and the processor seconds that it took.
Timed = tuple[Carried, float]


@dataclass(frozen=True, eq=False)
class RunningCase:
    """A case whose four directions were submitted.

    `image`: of the case's file. `attributes`: of that file. `jobs`: one for each direction.
    """

    case: AnnotatedCase
    image: np.ndarray
    attributes: Mapping[str, object]
    jobs: Sequence[Future[Timed]]


@dataclass(frozen=True)
class RegisterResult:
    """Coarse labels.

    `files`: px and py of each labelled case, by its name. `output`: the folder of
    registration.csv, summary.json and pictures.
    """

    files: Mapping[str, tuple[Path, Path]]
    output: Path


def run(settings: RegistrationSettings) -> RegisterResult:
    """Make the coarse labels of the labelled cases, and report on them.

    Finished files are kept. Raises UserError for what the user can correct.
    """
    dataset, root = _find_dataset(settings)
    check_root(root, dataset.info.name)
    output = settings.output_dir or root / "coarse_report"
    with ExitStack() as stack:
        stack.enter_context(only_writer(root, "name another folder with --root_path"))
        if output.resolve() != root.resolve():
            stack.enter_context(only_writer(output, "name another folder with --output_dir"))
        return _register(settings, dataset, root=root, output=output)


def _register(
    settings: RegistrationSettings, dataset: DatasetSpec, root: Path, output: Path
) -> RegisterResult:
    info = dataset.info
    cases = _labelled_cases(settings, dataset, root=root)
    for folder in (root, output):
        remove_unfinished(folder)
    unfinished = [case for case in cases if not _is_finished(settings, info, case=case)]
    seconds = _make(settings, info, cases=unfinished, total=len(cases))
    report(settings, info, cases=cases, seconds=seconds, output=output)
    message(
        f"wrote the coarse labels of {len(cases)} cases next to their files; "
        f"registration.csv, summary.json and pictures are in {output}"
    )
    return RegisterResult({case.name: case.coarse for case in cases}, output=output)


def _find_dataset(settings: RegistrationSettings) -> tuple[DatasetSpec, Path]:
    """The data set and the folder of its data.

    Raises UserError where the flags name neither.
    """
    if settings.dataset:
        dataset = find_dataset(settings.dataset, "TWO_SLICES")
        return dataset, data_root(settings.dataset, settings.root_path)
    if settings.root_path is None:
        raise UserError(
            "--dataset is missing: give LA, KiTS19 or LiTS, or for own data "
            "--root_path with the folder that prepare_data.py wrote"
        )
    return own_two_slices(read_plan(settings.root_path), settings.root_path), settings.root_path


def _labelled_cases(
    settings: RegistrationSettings, dataset: DatasetSpec, root: Path
) -> list[AnnotatedCase]:
    """The labelled cases with their annotated slices; UserError for wrong flags or files."""
    info = dataset.info
    labelnum = settings.labelnum
    if labelnum is None:
        labelnum = dataset.defaults["labelnum"]
    names = info.read_list(root, info.train_list)
    if not 1 <= labelnum <= len(names):
        raise UserError(
            f"--labelnum {labelnum}: {info.train_list} has {len(names)} cases, name 1 to "
            f"{len(names)}"
        )
    if settings.workers < 0:
        raise UserError(
            f"--workers {settings.workers}: give a number of processes, or 0 for one per processor"
        )
    check_processes("workers", settings.workers)
    planes = [_plane(word) for word in settings.planes or ()]
    paths = [(name, info.path(root, name)) for name in names[:labelnum]]
    # Read every case before the first is registered: a fault in the last one must not show only
    # after hours.
    if settings.report_against_truth:
        for _, path in paths:
            _check_dense_label(path, info)
    return [
        AnnotatedCase(name, path, annotated=read_annotation(path, info, planes=planes))
        for name, path in paths
    ]


def _check_dense_label(path: Path, info: DatasetInfo) -> None:
    """Raise UserError where the file's label is only two annotated slices."""
    _, attributes = read_image(path, info)
    if ANNOTATED in attributes:
        raise UserError(
            f"{path}: the label has only two annotated slices, and --report_against_truth needs a "
            f"dense one; omit the flag"
        )


def _plane(word: str) -> int | str:
    """A value of --planes: a slice number or a word."""
    if word in WORDS:
        return word
    if not word.isdecimal():
        raise UserError(
            f"--planes {word}: give for each plane a slice number, counted from 0, "
            f"or one of {', '.join(WORDS)}"
        )
    return int(word)


def _attributes(
    settings: RegistrationSettings, case: AnnotatedCase, plane: int, image: np.ndarray
) -> dict[str, object]:
    """Everything that a coarse label depends on: settings, hash of image and annotation."""
    annotation = case.annotated[plane]
    attributes: dict[str, object] = {
        "coarse_axis": annotation.axis,
        "coarse_slice": annotation.index,
        "coarse_transform": settings.transform,
        "coarse_propagation": settings.propagation,
    }
    if settings.propagation == "published":
        # older files, made from intensities that were not rounded, do not have this attribute
        attributes["coarse_intensities"] = "whole"
    attributes["coarse_seed"] = settings.seed
    attributes["coarse_input_sha256"] = _input_hash(settings, case, plane=plane, image=image)
    return attributes


def _input_hash(
    settings: RegistrationSettings, case: AnnotatedCase, plane: int, image: np.ndarray
) -> str:
    """SHA-256 of the image and of the annotated slices that the plane's label is made from."""
    annotations = [case.annotated[plane]]
    if settings.propagation == "improved":
        annotations = list(case.annotated)
    digest = hashlib.sha256(np.ascontiguousarray(image).data)
    for annotation in annotations:
        digest.update(f"{annotation.axis} {annotation.index}".encode())
        digest.update(np.ascontiguousarray(annotation.mask).tobytes())
    return digest.hexdigest()


def _is_finished(settings: RegistrationSettings, info: DatasetInfo, case: AnnotatedCase) -> bool:
    """Whether both coarse files are intact and were made with these settings.

    Always False with --redo. Raises UserError for files that were made with different settings.
    """
    if settings.redo:
        return False
    image: np.ndarray | None = None
    intact = 0
    for plane, path in enumerate(case.coarse):
        if not path.exists():
            continue
        try:
            attributes = read_coarse(path, AGAIN).attributes
        except UserError as error:
            message(f"made again: {error}")
            continue
        fault = content_fault(path)
        if fault:
            message(f"made again: {fault}")
            continue
        if image is None:
            image, _ = read_image(case.path, info)
        expected = _attributes(settings, case, plane=plane, image=image)
        _check_same_settings(path, attributes, expected=expected)
        intact += 1
    return intact == 2


def _check_same_settings(
    path: Path, attributes: Mapping[str, object], expected: Mapping[str, object]
) -> None:
    """Raise UserError where an attribute of the coarse file is not the expected one."""
    for key, value in expected.items():
        if attributes.get(key) == value:
            continue
        if key == "coarse_input_sha256":
            what = "image or annotation"
        else:
            what = f"{key.removeprefix('coarse_')} ({attributes.get(key)}, now {value})"
        raise UserError(
            f"{path}: made with another {what}; use --redo to make the coarse labels again, "
            f"or move the file away"
        )


def _make(
    settings: RegistrationSettings, info: DatasetInfo, cases: Sequence[AnnotatedCase], total: int
) -> dict[str, list[float]]:
    """Register the cases, and write the files of each as soon as its four directions are done.

    Returns the processor seconds of each case's planes. `total`: number of cases including the
    finished ones.
    """
    seconds: dict[str, list[float]] = {}
    if not cases:
        return seconds
    workers = settings.workers or os.cpu_count() or 1
    # no more volumes in memory than keep every process busy
    most_waiting = workers // 4 + 1
    waiting: deque[RunningCase] = deque()
    bar_options = {"desc": "registering", "unit": "direction"}
    with (
        ended_processes(),
        terminated(),
        progress(total=4 * total, initial=4 * (total - len(cases)), **bar_options) as bar,
        worker_pool(min(workers, 4 * len(cases))) as pool,
    ):
        for case in cases:
            running = _submit(settings, info, case=case, pool=pool)
            for job in running.jobs:
                job.add_done_callback(lambda job: job.cancelled() or bar.update())
            waiting.append(running)
            if len(waiting) > most_waiting:
                first = waiting.popleft()
                seconds[first.case.name] = _write(settings, first)
        for running in waiting:
            seconds[running.case.name] = _write(settings, running)
    return seconds


def _submit(
    settings: RegistrationSettings,
    info: DatasetInfo,
    case: AnnotatedCase,
    pool: ProcessPoolExecutor,
) -> RunningCase:
    """Submit the four directions of a case.

    They lead from each plane's annotated slice to the start and to the end of its axis.
    """
    image, attributes = read_image(case.path, info)
    scaled = scale_255(image, whole=settings.propagation == "published")
    jobs = []
    for plane, annotation in enumerate(case.annotated):
        other = None
        if settings.propagation == "improved":
            other = case.annotated[1 - plane]
        slices = np.moveaxis(scaled, annotation.axis, 0)
        for numbers, guide in directions(annotation, other, length=len(slices)):
            part = np.ascontiguousarray(slices[numbers])
            job = pool.submit(
                _carry_timed,
                part,
                annotation.mask,
                transform=settings.transform,
                seed=settings.seed,
                guide=guide,
            )
            jobs.append(job)
    return RunningCase(case, image, attributes=attributes, jobs=jobs)


def _carry_timed(
    slices: np.ndarray, mask: np.ndarray, transform: str, seed: int, guide: Guide | None
) -> Timed:
    start = time.process_time()  # not wall time: processes may share a processor
    carried = carry(slices, mask, transform=transform, seed=seed, guide=guide)
    return carried, time.process_time() - start


def _write(settings: RegistrationSettings, running: RunningCase) -> list[float]:
    """Wait for the directions of a case, and write its two coarse labels.

    Returns the processor seconds of both planes.
    """
    results = [job.result() for job in running.jobs]
    case = running.case
    separate, labels = assemble(
        case,
        running.image.shape,
        carried=[carried for carried, _ in results],
        improved=settings.propagation == "improved",
    )
    seconds = []
    for plane, path in enumerate(case.coarse):
        plane_results = results[2 * plane : 2 * plane + 2]
        attributes = {
            **running.attributes,
            **_attributes(settings, case, plane=plane, image=running.image),
            "coarse_planes": " ".join(settings.planes or ("published",)),
            "coarse_failed": sum(carried.failed for carried, _ in plane_results),
            "coarse_versions": _versions(),
        }
        write_coarse(
            path,
            running.image,
            label=labels[plane],
            unfused=separate[plane],
            attributes=attributes,
        )
        seconds.append(sum(taken for _, taken in plane_results))
    return seconds


def _versions() -> str:
    return ", ".join(f"{name} {version(name)}" for name in ("antspyx", "numpy", "scipy"))
