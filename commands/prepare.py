"""Prepare raw scans: write the HDF5 files that training reads, in parallel processes.

Finished files are kept, and a case that cannot be prepared does not stop the others.
"""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, as_completed
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from commands.next_command import next_command
from dataloaders.copies import Prints, ScanCase, find_copies
from dataloaders.digest import SOURCE_VOXELS, json_texts
from dataloaders.fingerprint import fingerprint
from dataloaders.plan import FILE, Plan, read_plan
from datasets.prepare.nnunet import RawDataset, read_dataset
from datasets.prepare.own_scans import OwnPreparation
from datasets.prepare.planning import make_plan
from datasets.prepare.preparation import Preparation
from datasets.prepare.prepared_files import (
    OTHER_SETTINGS,
    RawCase,
    claim,
    finished,
    other_settings_of_some,
    provenance_attributes,
    read_source_voxels,
    write_case,
)
from datasets.prepare.published import Crop, PublishedPreparation, Size, make_preparation
from datasets.registry import find_dataset
from scans.faults import report_faults
from scans.reading import read_scan, sha256
from utils.errors import UserError
from utils.files import remove_unfinished
from utils.lock import only_writer
from utils.messages import error_message, message
from utils.names import and_more, nearest, printable
from utils.progress import progress
from utils.workers import check_processes, ended_processes, terminated, worker_pool

OWN = "own"
SHOWN = 20
"""Faults of a data set that are printed in addition to the first one."""


@dataclass(frozen=True)
class PrepareSettings:
    """Which scans are prepared, and how."""

    dataset: str
    """The data set: ACDC, LA, Pancreas, KiTS19 or LiTS; the Python file of another one
    (docs/extending.md); or own for scans in nnU-Net's raw layout, where imagesUn/ has the cases
    without label.
    """
    source: Path
    """Folder of the raw scans; files are found in all folders below it."""
    root_path: Path
    """Folder for the prepared data, which training takes as --root_path."""
    crop: Crop = "published"
    """Data sets that are cropped around the label (LA, Pancreas, KiTS19, LiTS): none keeps the
    complete scan, which scans without label need.
    """
    variant: str | None = None
    """Pancreas: coranet (default, on which BCP trains) or mcnet."""
    size: Size | None = None
    """KiTS19 (default 192 192 64) and LiTS (176 176 64; DeSCO has 192 192 64): voxels in a row,
    voxels in a column, slices.
    """
    dims: Literal[2, 3] | None = None
    """own: train on slices (2) or volumes (3).

    Default: 2 if there are few slices, or slices more than three times as thick as pixels are wide.
    """
    cases: tuple[str, ...] | None = None
    """Prepare only these cases, by their names. Default: those in the published lists; own: all."""
    workers: int = 0
    """Number of processes; 0: one for each processor. Each has one scan in memory at a time."""
    redo: bool = False
    """Prepare every case again; with --cases, only these, with the settings of the others.

    Without it finished cases are kept, and files made with other settings or from other scans are
    an error.
    """


@dataclass(frozen=True)
class CaseResult:
    """What became of a case.

    `scans`: fingerprints of its images, none where it could not be prepared.
    """

    name: str
    scans: tuple[str, ...] = ()
    kept: bool = False
    failed: str = ""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class PrepareResult:
    """What became of the cases, by name.

    `root_path`: the folder that training takes. `prepared` and `kept`: cases that were prepared
    now, or earlier. `failed`: the fault of each case that could not be prepared.
    """

    root_path: Path
    prepared: tuple[str, ...]
    kept: tuple[str, ...]
    failed: Mapping[str, str]


def run(settings: PrepareSettings) -> PrepareResult:
    """Prepare a data set.

    Raises UserError for what the user can correct; a case that cannot be prepared is only reported.
    """
    _check_flags(settings)
    published = None
    if settings.dataset != OWN:
        published = _published(settings)
    root = settings.root_path
    with only_writer(root, "choose another folder with --root_path"):
        preparation = published or _own(settings)
        cases = _chosen(settings, preparation)
        remove_unfinished(root)
        if isinstance(preparation, OwnPreparation):
            preparation.plan.write(root)
        else:
            claim(
                root,
                preparation.settings,
                redo=settings.redo,
                only_some=bool(settings.cases),
            )
        result = run_cases(preparation, cases, root, workers=settings.workers, redo=settings.redo)
    if not result.failed:
        message(_next_check(settings))
    return result


def _next_check(settings: PrepareSettings) -> str:
    """The command that checks the prepared data."""
    flags = ["--root_path", settings.root_path]
    if settings.dataset.endswith(".py"):
        flags += ["--dataset", settings.dataset]
    return next_command("code/check_data.py", *flags)


def _published(settings: PrepareSettings) -> PublishedPreparation:
    """The preparation of the data set that --dataset names."""
    kind = find_dataset(settings.dataset).preparation
    if kind is None:
        raise UserError(
            f"--dataset {settings.dataset}: the data set has no preparation; add one "
            "(docs/extending.md)"
        )
    return make_preparation(kind, settings.crop, variant=settings.variant, size=settings.size)


def _check_flags(settings: PrepareSettings) -> None:
    is_own = settings.dataset == OWN
    if settings.dims is not None and not is_own:
        raise UserError(f"--dims is only for --dataset {OWN}; remove it for {settings.dataset}")
    for flag, value in (("--variant", settings.variant), ("--size", settings.size)):
        if is_own and value is not None:
            raise UserError(f"{flag} is not for --dataset {OWN}; remove it")
    if settings.workers < 0:
        raise UserError(
            f"--workers {settings.workers}: expected a number of processes, or 0 for one per "
            "processor"
        )
    check_processes("workers", settings.workers)
    if not settings.source.is_dir():
        raise UserError(
            f"--source {settings.source}: no such folder; name the folder that holds the raw scans"
        )
    if settings.root_path.resolve() == settings.source.resolve():
        raise UserError(
            f"--root_path {settings.root_path}: is the source itself; choose another folder"
        )


def _own(settings: PrepareSettings) -> OwnPreparation:
    """Prepare by the plan in the root, so that networks trained on it remain valid, or else by a
    new one.

    With --cases, --redo keeps the plan too, because the other cases were prepared by it.
    """
    dataset = _read_own(settings.source)
    _warn(dataset.warnings)
    keeps_plan = not settings.redo or bool(settings.cases)
    if keeps_plan and (settings.root_path / FILE).exists():
        plan = read_plan(settings.root_path)
        _check_plan(settings, plan, dataset=dataset)
        return OwnPreparation(plan, dataset.cases)
    with (
        ended_processes(),
        terminated(),
        _pool(settings.workers, jobs=len(dataset.cases)) as pool,
    ):
        plan = make_plan(dataset, settings.dims, pool=pool)
    message(f"--dims {plan.dims} ({plan.why['dims']})")
    if "axis" in plan.why:
        message(plan.why["axis"])
    if "mixed" in plan.why:
        _warn([plan.why["mixed"]])
    return OwnPreparation(plan, dataset.cases)


def _pool(workers: int, jobs: int) -> AbstractContextManager[Executor]:
    """A pool of as many processes as there is work for."""
    return worker_pool(min(workers or os.cpu_count() or 1, max(jobs, 1)))


def _check_plan(settings: PrepareSettings, plan: Plan, dataset: RawDataset) -> None:
    """Raise UserError where the flags or dataset.json differ from the plan in the root."""
    planned_labels = dict(zip(plan.class_names, plan.label_values, strict=True))
    labels = {name: value for value, name in dataset.labels}
    for what, before, after in (
        ("--dims", plan.dims, settings.dims or plan.dims),
        ("labels", planned_labels, labels),
        ("channel_names", plan.channel_names, dataset.channel_names),
    ):
        if before == after:
            continue
        remedy = OTHER_SETTINGS
        if settings.cases:
            remedy = other_settings_of_some([what])
        raise UserError(
            f"{settings.root_path / FILE}: made with other {what} ({before}, now {after}); {remedy}"
        )


def _read_own(source: Path) -> RawDataset:
    """The raw data set.

    Where there are several faults, all are printed, and the first is raised as UserError.
    """
    faults: list[str] = []
    dataset = None
    try:
        dataset = read_dataset(source, faults.append)
    except UserError as error:
        faults.insert(0, str(error))
    if dataset is not None and not faults:
        return dataset
    for line in faults[1 : SHOWN + 1]:
        error_message(f"error: {printable(line)}")
    if len(faults) > SHOWN + 1:
        error_message(
            f"error: {len(faults) - SHOWN - 1} more; code/check_data.py --root_path {source} lists "
            "all"
        )
    raise UserError(faults[0])


def _warn(lines: Sequence[str]) -> None:
    for line in lines:
        message(f"warning: {printable(line)}")


def _chosen(settings: PrepareSettings, preparation: Preparation) -> list[RawCase]:
    """The cases that --cases names, or else those in a list; UserError if there is none."""
    cases = {case.name: case for case in preparation.find(settings.source)}
    if not cases:
        raise UserError(
            f"--source {settings.source}: no {settings.dataset} scan below it; "
            "docs/data.md shows the folders that are expected"
        )
    if settings.cases:
        _check_names(settings, settings.cases, cases)
        return [cases[name] for name in dict.fromkeys(settings.cases)]
    listed = preparation.splits(list(cases.values()))
    others = [name for name in cases if name not in listed]
    if others:
        message(
            f"skipped: {len(others)} of {len(cases)} cases, in no published list "
            f"({', '.join(others[:3])} ...); --cases prepares them"
        )
    if len(others) == len(cases):
        raise UserError(
            f"--source {settings.source}: none of its cases is in a published list; "
            "name them with --cases"
        )
    return [case for name, case in cases.items() if name in listed]


def _check_names(
    settings: PrepareSettings, chosen: Sequence[str], cases: Mapping[str, RawCase]
) -> None:
    """Raise UserError for a name in --cases that no case has."""
    unknown = [name for name in chosen if name not in cases]
    if not unknown:
        return
    near = nearest(unknown[0], cases)
    hint = f"{', '.join(list(cases)[:3])} ..."
    if near:
        hint = f"did you mean {near}?"
    raise UserError(
        f"--cases {unknown[0]}{and_more(unknown)}: not among the {len(cases)} cases below "
        f"{settings.source} ({hint})"
    )


def run_cases(
    preparation: Preparation, cases: Sequence[RawCase], root: Path, workers: int, redo: bool
) -> PrepareResult:
    """Prepare the cases and write the lists; report which could not be prepared."""
    results: list[CaseResult] = []
    try:
        with (
            ended_processes(),
            terminated(),
            progress(total=len(cases), desc="preparing", unit="case") as bar,
            _pool(workers, jobs=len(cases)) as pool,
        ):
            jobs = [pool.submit(prepare_case, preparation, case, root, redo) for case in cases]
            for job in as_completed(jobs):
                results.append(job.result())
                bar.update()
    finally:
        remove_unfinished(root)
    results.sort(key=lambda result: result.name)
    for result in results:
        _warn(result.warnings)
    failed = {result.name: result.failed for result in results if result.failed}
    for name, fault in failed.items():
        error_message(f"not prepared: {printable(f'{name}: {fault}')}")
    check_copies(preparation, cases, results)
    _warn(preparation.write_lists(root))
    kept = tuple(result.name for result in results if result.kept)
    prepared = tuple(result.name for result in results if not result.kept and not result.failed)
    message(
        f"{len(prepared)} cases prepared, {len(kept)} kept, {len(failed)} not prepared; "
        f"they are in {root}"
    )
    return PrepareResult(root_path=root, prepared=prepared, kept=kept, failed=failed)


def check_copies(
    preparation: Preparation, cases: Sequence[RawCase], results: Sequence[CaseResult]
) -> None:
    """Raise UserError where one scan has two names in different splits; no list is written then.

    Copies within a split are only reported.
    """
    scans = {result.name: result.scans for result in results}
    splits = preparation.splits(cases)
    scan_cases = []
    for case in cases:
        if case.name in splits:
            prints = Prints(frozenset(scan for scan in scans.get(case.name, ()) if scan))
            scan_cases.append(ScanCase(splits[case.name], case.name, str(case.images[0]), prints))
    leaks, copies = find_copies(scan_cases)
    _warn([f"{line}, so it counts twice" for line in copies])
    if leaks:
        raise UserError(
            f"{leaks[0]}; remove one of them and prepare again, no list was written"
            f"{and_more(leaks)}"
        )


def source_voxels(path: Path, case: RawCase) -> tuple[str, ...]:
    """The fingerprints of a case's scans, from its finished file or, where an older version made
    that, from the scans.
    """
    recorded = read_source_voxels(path)
    if recorded is not None:
        return recorded
    return tuple(fingerprint(read_scan(image).array) for image in case.images)


def prepare_case(preparation: Preparation, case: RawCase, root: Path, redo: bool) -> CaseResult:
    """Make the files of one case unless they are finished.

    Raises UserError where they cannot be written, which would be so for every case.
    """
    fault = case.fault or case.undecodable
    if fault:
        return CaseResult(case.name, failed=fault)
    warnings: list[str] = []
    faults: list[str] = []
    settings = preparation.settings

    def warn(line: str | None) -> None:
        if line:
            warnings.append(line)

    with report_faults(case.images[0], faults.append):
        hashes = [sha256(path) for path in case.sources]
        last_file = preparation.last_file(case)
        is_finished = finished(
            root,
            last_file,
            settings,
            hashes=hashes,
            has_slices=preparation.has_slices(case),
            redo=redo,
            warn=warn,
        )
        if is_finished:
            return CaseResult(case.name, scans=source_voxels(root / last_file, case), kept=True)
        outputs = list(preparation.prepare(case, warn))
    if faults:
        return CaseResult(case.name, failed=faults[0])
    names = [path.name for path in case.sources]
    others = [output.file for output in outputs[:-1]]
    attributes = provenance_attributes(settings, names, hashes=hashes, others=others)
    attributes[SOURCE_VOXELS] = outputs[-1].attributes[SOURCE_VOXELS]
    write_case(root, case.name, outputs=outputs, attributes=attributes)
    scans = tuple(json_texts(attributes[SOURCE_VOXELS]))
    return CaseResult(case.name, scans=scans, warnings=tuple(warnings))
