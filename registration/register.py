"""Registration of CoGRNet: two annotated slices of each labelled volume become two coarse 3-D labels (px, py), then their report."""

import hashlib
import os
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path

import numpy as np

from dataloaders.coarse import WORDS, read_annotation, read_coarse, read_image, write_coarse
from dataloaders.facts import DatasetFacts
from dataloaders.hdf5 import ANNOTATED, check_root, content_fault
from dataloaders.plan import read_plan
from recipes.own import own_two_slices
from recipes.page import Page, data_root
from recipes.registry import find_page
from registration.labels import AGAIN, Case, assemble, directions
from registration.report import report
from registration.settings import RegistrationSettings
from utils.cli import parse
from utils.errors import UserError
from utils.files import remove_unfinished
from utils.lock import only_writer
from utils.progress import progress
from utils.registration import carry, scale_255
from utils.workers import check_processes, ended_processes, terminated, worker_pool


def register(argv: Sequence[str] | None = None, description: str | None = None) -> None:
    """Make and report coarse labels; see `RegistrationSettings`."""
    s = parse(RegistrationSettings, argv, description=description)
    page, root = _page(s)
    facts = page.facts
    check_root(root, facts.name)
    output = s.output_dir or root / "coarse_report"
    with ExitStack() as stack:
        stack.enter_context(only_writer(root, "name another folder with --root_path"))
        if output.resolve() != root.resolve():
            stack.enter_context(only_writer(output, "name another place with --output_dir"))
        _register(s, page, root, output=output)


def _register(s: RegistrationSettings, page: Page, root: Path, output: Path) -> None:
    facts = page.facts
    cases = _labelled_cases(s, page, root)
    for folder in (root, output):
        remove_unfinished(folder)
    seconds = _make(s, facts, [case for case in cases if not _finished(s, facts, case)], len(cases))
    report(s, facts, cases, seconds, output)
    print(
        f"coarse labels of {len(cases)} cases lie beside their files; registration.csv, summary.json and pictures are in {output}"
    )


def _page(s: RegistrationSettings) -> tuple[Page, Path]:
    """The page and the folder of the data."""
    if s.dataset:
        return find_page(s.dataset, "TWO_SLICES"), data_root(s.dataset, s.root_path)
    if s.root_path is None:
        raise UserError(
            "--dataset: name LA, KiTS19 or LiTS, or with --root_path the folder of own data that prepare_data.py wrote"
        )
    return own_two_slices(read_plan(s.root_path), s.root_path), s.root_path


def _labelled_cases(s: RegistrationSettings, page: Page, root: Path) -> list[Case]:
    facts, labelnum = page.facts, page.numbers["labelnum"] if s.labelnum is None else s.labelnum
    names = facts.read_list(root, facts.train_list)
    if not 1 <= labelnum <= len(names):
        raise UserError(
            f"--labelnum {labelnum}: {facts.train_list} has {len(names)} cases, name 1 to {len(names)}"
        )
    if s.workers < 0:
        raise UserError(f"--workers {s.workers}: a number of processes, or 0 for one per processor")
    check_processes("workers", s.workers)
    planes = [_plane(word) for word in s.planes or ()]
    paths = [(name, facts.path(root, name)) for name in names[:labelnum]]
    # every case is looked at before the first is registered: a fault in the last must not show after hours
    for _, path in paths:
        if s.report_against_truth and ANNOTATED in read_image(path, facts)[1]:
            raise UserError(
                f"--report_against_truth: {path} holds two drawn slices, there is no dense label; leave the flag out"
            )
    return [Case(name, path, read_annotation(path, facts, planes)) for name, path in paths]


def _plane(word: str) -> int | str:
    if word in WORDS:
        return word
    if not word.isdecimal():
        raise UserError(
            f"--planes {word}: a slice number, counted from 0, or one of {', '.join(WORDS)} is expected for each plane"
        )
    return int(word)


def _attributes(s: RegistrationSettings, case: Case, plane: int, image: np.ndarray) -> dict:
    """What a coarse label depends on."""
    digest = hashlib.sha256(np.ascontiguousarray(image))
    for drawn in (
        case.annotated if s.propagation == "improved" else case.annotated[plane : plane + 1]
    ):
        digest.update(
            f"{drawn.axis} {drawn.index}".encode() + np.ascontiguousarray(drawn.mask).tobytes()
        )
    return {
        "coarse_axis": case.annotated[plane].axis,
        "coarse_slice": case.annotated[plane].index,
        "coarse_transform": s.transform,
        "coarse_propagation": s.propagation,
        **(
            {"coarse_intensities": "whole"} if s.propagation == "published" else {}
        ),  # older files were made of fractions
        "coarse_seed": s.seed,
        "coarse_input_sha256": digest.hexdigest(),
    }


def _finished(s: RegistrationSettings, facts: DatasetFacts, case: Case) -> bool:
    """Whether both coarse files are there, as they were written and made with these settings; raises UserError for other ones.
    Never with --redo."""
    if s.redo:
        return False
    intact = 0
    image = None
    for plane, path in enumerate(case.coarse):
        if not path.exists():
            continue
        try:
            attributes = read_coarse(path, AGAIN).attributes
        except UserError as error:
            print(f"made again: {error}")
            continue
        if fault := content_fault(path):
            print(f"made again: {fault}")
            continue
        image = read_image(case.path, facts)[0] if image is None else image
        for key, value in _attributes(s, case, plane, image).items():
            if attributes.get(key) == value:
                continue
            what = key.removeprefix("coarse_").replace("input_sha256", "image or annotation")
            raise UserError(
                f"{path}: made with another {what}{'' if 'sha256' in key else f' ({attributes.get(key)}, now {value})'}; "
                f"--redo makes the coarse labels again, or move it away"
            )
        intact += 1
    return intact == 2


def _make(
    s: RegistrationSettings, facts: DatasetFacts, cases: Sequence[Case], total: int
) -> dict[str, list[float]]:
    """Register the cases and write their files, each as soon as its four directions are done; processor seconds of each
    case's planes."""
    workers = s.workers or os.cpu_count() or 1
    seconds: dict[str, list[float]] = {}
    if not cases:
        return seconds
    waiting: deque = deque()
    with (
        ended_processes(),
        terminated(),
        progress(
            total=4 * total, initial=4 * (total - len(cases)), desc="registering", unit="direction"
        ) as bar,
        worker_pool(min(workers, 4 * len(cases))) as pool,
    ):
        for case in cases:
            image, kept = read_image(case.path, facts)
            jobs = _submit(s, pool, case, image)
            for job in jobs:
                job.add_done_callback(lambda job: job.cancelled() or bar.update())
            waiting.append((case, image, kept, jobs))
            if (
                len(waiting) > workers // 4 + 1
            ):  # no more volumes in memory than keep every process busy
                seconds |= _write(s, *waiting.popleft())
        while waiting:
            seconds |= _write(s, *waiting.popleft())
    return seconds


def _submit(
    s: RegistrationSettings, pool: ProcessPoolExecutor, case: Case, image: np.ndarray
) -> list[Future]:
    """Start the four directions of a case: each plane's annotated slice towards the axis's start and its end."""
    jobs = []
    scaled = scale_255(image, whole=s.propagation == "published")
    for own, other in (case.annotated, case.annotated[::-1]):
        for part, guide in directions(
            own, other if s.propagation == "improved" else None, image.shape[own.axis]
        ):
            slices = np.ascontiguousarray(np.moveaxis(scaled, own.axis, 0)[part])
            jobs.append(pool.submit(_timed, slices, own.mask, s.transform, s.seed, guide))
    return jobs


def _timed(*arguments) -> tuple:
    start = time.process_time()  # not the clock: processes may share a processor
    return carry(*arguments), time.process_time() - start


def _write(
    s: RegistrationSettings, case: Case, image: np.ndarray, kept: dict, jobs: Sequence[Future]
) -> dict[str, list[float]]:
    results = [job.result() for job in jobs]
    improved = s.propagation == "improved"
    alone, labels = assemble(case, image.shape, [carried for carried, _ in results], improved)
    for plane, path in enumerate(case.coarse):
        attributes = {
            **kept,
            **_attributes(s, case, plane, image),
            "coarse_planes": " ".join(s.planes or ("published",)),
            "coarse_failed": sum(
                carried.failed for carried, _ in results[2 * plane : 2 * plane + 2]
            ),
            "coarse_versions": ", ".join(
                f"{name} {version(name)}" for name in ("antspyx", "numpy", "scipy")
            ),
        }
        write_coarse(path, image, labels[plane], alone[plane], attributes)
    return {
        case.name: [
            sum(taken for _, taken in results[2 * plane : 2 * plane + 2]) for plane in (0, 1)
        ]
    }
