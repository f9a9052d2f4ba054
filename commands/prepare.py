"""From raw scans to the HDF5 files that training reads: processes in parallel, finished files kept, one bad case stops no other."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from pathlib import Path

from dataloaders.copies import Prints, ScanCase, find_copies
from dataloaders.digest import SOURCE_VOXELS, json_texts
from dataloaders.fingerprint import fingerprint
from dataloaders.plan import FILE, read_plan
from dataloaders.splits import WHOLE
from datasets.acdc import ACDCPreparation
from datasets.kits19 import KiTS19Preparation
from datasets.la import LAPreparation
from datasets.lits import LiTSPreparation
from datasets.pancreas import PancreasPreparation
from datasets.prepare.crop import Box
from datasets.prepare.lists import published_lists
from datasets.prepare.nnunet import RawDataset, read_dataset
from datasets.prepare.own_scans import OwnPreparation
from datasets.prepare.planning import make_plan
from datasets.prepare.preparation import Preparation, PrepareSettings
from datasets.prepare.prepared_files import (
    RawCase,
    claim,
    finished,
    provenance_attributes,
    read_source_voxels,
    write_case,
)
from scans.faults import report_faults
from scans.reading import read_scan, sha256
from utils.cli import parse
from utils.errors import UserError
from utils.files import remove_unfinished
from utils.lock import only_writer
from utils.messages import error_message, message
from utils.names import nearest, printable
from utils.progress import progress
from utils.workers import check_processes, ended_processes, terminated, worker_pool

SHOWN = 20  # faults of a data set that are printed beside the first one


@dataclass(frozen=True)
class Done:
    """What became of a case. `scans`: fingerprints of its images, none where it could not be prepared."""

    name: str
    scans: tuple[str, ...] = ()
    kept: bool = False
    failed: str | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class PrepareResult:
    """What became of the cases, by name.

    `root_path`: the folder that training takes. `prepared` and `kept`: cases that were prepared now, or earlier.
    `failed`: what is wrong with each case that could not be prepared.
    """

    root_path: Path
    prepared: tuple[str, ...]
    kept: tuple[str, ...]
    failed: Mapping[str, str]


def prepare(argv: Sequence[str] | None = None, description: str | None = None) -> int:
    """Prepare a data set; see `PrepareSettings`. Returns 2 where a case could not be prepared, else 0."""
    result = run(parse(PrepareSettings, argv, description=description))
    return 2 if result.failed else 0


def run(s: PrepareSettings) -> PrepareResult:
    """Prepare a data set. Raises UserError for what the user can correct; a case that cannot be prepared is only reported."""
    _check_flags(s)
    check_variant(s.dataset, s.variant, s.size)
    with only_writer(s.root_path, "name another place with --root_path"):
        return _prepare(s)


def _prepare(s: PrepareSettings) -> PrepareResult:
    preparation = (
        _own(s)
        if s.dataset == "own"
        else published_preparation(s.dataset, s.crop, s.variant, s.size)
    )
    cases = _chosen(s, preparation)
    remove_unfinished(s.root_path)
    if s.dataset == "own":
        preparation.plan.write(s.root_path)
    else:
        claim(s.root_path, preparation.settings, s.redo)
    return run_cases(preparation, cases, s.root_path, s.workers, s.redo)


def _own(s: PrepareSettings) -> Preparation:
    """By the plan that lies at the root already, so that networks trained on it stay of use, or else by a new one."""
    dataset = _read_own(s.source)
    for line in dataset.said:
        message(f"warning: {printable(line)}")
    if (s.root_path / FILE).exists() and not s.redo:
        plan = read_plan(s.root_path)
        for what, before, after in (
            ("--dims", plan.dims, s.dims or plan.dims),
            (
                "labels",
                dict(zip(plan.class_names, plan.label_values, strict=True)),
                {name: value for value, name in dataset.labels},
            ),
            ("channel_names", plan.channel_names, dataset.channel_names),
        ):
            if before != after:
                raise UserError(
                    f"{s.root_path / FILE}: made with other {what} ({before}, now {after}); name another --root_path, or --redo"
                )
    else:
        workers = s.workers or os.cpu_count() or 1
        with (
            ended_processes(),
            terminated(),
            worker_pool(min(workers, max(len(dataset.cases), 1))) as pool,
        ):
            plan = make_plan(dataset, s.dims, pool)
        message(f"--dims {plan.dims} ({plan.why['dims']})")
        if "axis" in plan.why:
            message(plan.why["axis"])
        if "mixed" in plan.why:
            message(f"warning: {printable(plan.why['mixed'])}")
    return OwnPreparation(plan, dataset.cases)


def _read_own(source: Path) -> RawDataset:
    """The raw data set. Where there are several faults, all are printed, and the first is raised as UserError."""
    faults: list[str] = []
    try:
        dataset = read_dataset(source, faults.append)
    except UserError as error:
        faults.insert(0, str(error))
    if not faults:
        return dataset
    for line in faults[1 : SHOWN + 1]:
        error_message(f"error: {printable(line)}")
    if len(faults) > SHOWN + 1:
        error_message(
            f"error: {len(faults) - SHOWN - 1} more; code/check_data.py --root_path {source} lists all"
        )
    raise UserError(faults[0])


def _check_flags(s: PrepareSettings) -> None:
    if s.dims is not None and s.dataset != "own":
        raise UserError(f"--dims is for own alone; leave it out for {s.dataset}")
    if s.workers < 0:
        raise UserError(f"--workers {s.workers}: a number of processes, or 0 for one a processor")
    check_processes("workers", s.workers)
    if not s.source.is_dir():
        raise UserError(
            f"--source {s.source}: no such folder; name the one that holds the {s.dataset} scans"
        )
    if s.root_path.resolve() == s.source.resolve():
        raise UserError(
            f"--root_path {s.root_path}: is the source itself; name another folder to write to"
        )


def check_variant(dataset: str, variant: str | None, size: tuple[int, int, int] | None) -> None:
    """Raise UserError for a variant or size that the data set does not have."""
    for flag, given, known in (
        ("--variant", variant, ("Pancreas",)),
        ("--size", size, ("KiTS19", "LiTS")),
    ):
        if given is not None and dataset not in known:
            raise UserError(
                f"{flag} is for {' and '.join(known)} alone; leave it out for {dataset}"
            )
    if size and not all(8 <= voxels <= 1024 for voxels in size):
        raise UserError(f"--size {' '.join(map(str, size))}: name three numbers from 8 to 1024")


def published_preparation(
    dataset: str,
    crop: str,
    variant: str | None,
    size: tuple[int, int, int] | None,
    box: Box | None = None,
) -> Preparation:
    """How one of the five published data sets is prepared; `box`: what is kept where `crop` is none."""
    sized = {"size": size} if size else {}
    if dataset == "LA":
        return LAPreparation(crop, box)
    if dataset == "Pancreas":
        return PancreasPreparation(variant or "coranet", crop, box)
    if dataset == "KiTS19":
        return KiTS19Preparation(crop=crop, box=box, **sized)
    if dataset == "LiTS":
        return LiTSPreparation(crop=crop, box=box, **sized)
    return ACDCPreparation()


def _chosen(s: PrepareSettings, preparation: Preparation) -> list[RawCase]:
    """The cases that `--cases` names, or else those that a published list names; UserError where there is none."""
    found = {case.name: case for case in preparation.find(s.source)}
    if not found:
        raise UserError(
            f"--source {s.source}: no {s.dataset} scan below it; docs/data.md shows the folders that are expected"
        )
    if s.cases:
        unknown = [name for name in s.cases if name not in found]
        if unknown:
            near = nearest(unknown[0], found)
            meant = f"did you mean {near}?" if near else f"{', '.join(list(found)[:3])} ..."
            more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
            raise UserError(
                f"--cases {unknown[0]}{more}: not among the {len(found)} cases below {s.source} ({meant})"
            )
        return [found[name] for name in dict.fromkeys(s.cases)]
    if s.dataset == "own":
        return list(found.values())
    listed = {
        preparation.listed(line) for lines in published_lists(s.dataset).values() for line in lines
    }
    others = [name for name in found if name not in listed]
    if others:
        message(
            f"left out: {len(others)} of {len(found)} cases, in no published list ({', '.join(others[:3])} ...); --cases takes them"
        )
    if len(others) == len(found):
        raise UserError(
            f"--source {s.source}: none of its cases is in a published list; name them with --cases"
        )
    return [case for name, case in found.items() if name in listed]


def run_cases(
    preparation: Preparation, cases: Sequence[RawCase], root: Path, workers: int, redo: bool
) -> PrepareResult:
    """Prepare the cases and write the lists; report which could not be prepared."""
    done = []
    try:
        with (
            ended_processes(),
            terminated(),
            progress(total=len(cases), desc="preparing", unit="case") as bar,
            worker_pool(min(workers or os.cpu_count() or 1, max(len(cases), 1))) as pool,
        ):
            for job in as_completed(
                [pool.submit(prepare_case, preparation, case, root, redo) for case in cases]
            ):
                done.append(job.result())
                bar.update()
    finally:
        remove_unfinished(root)
    done.sort(key=lambda one: one.name)
    for line in [line for one in done for line in one.warnings]:
        message(f"warning: {printable(line)}")
    failed = [one for one in done if one.failed]
    for one in failed:
        error_message(f"not prepared: {printable(f'{one.name}: {one.failed}')}")
    check_copies(preparation, cases, done)
    for line in preparation.write_lists(root):
        message(f"warning: {printable(line)}")
    kept = [one.name for one in done if one.kept]
    prepared = [one.name for one in done if not one.kept and not one.failed]
    message(
        f"{len(prepared)} cases prepared, {len(kept)} kept, {len(failed)} not prepared; they lie below {root}"
    )
    return PrepareResult(
        root_path=root,
        prepared=tuple(prepared),
        kept=tuple(kept),
        failed={one.name: one.failed for one in failed if one.failed},
    )


def check_copies(preparation: Preparation, cases: Sequence[RawCase], done: Sequence[Done]) -> None:
    """UserError where one scan is among the cases to train, to validate or to test on twice, under two names; no list is written then.

    Copies that are used for the same purpose are reported.
    """
    scans = {one.name: one.scans for one in done}
    splits = splits_of(preparation, cases)
    found = []
    for case in cases:
        whole = frozenset(scan for scan in scans.get(case.name, ()) if scan)
        if case.name in splits:
            place = str(case.images[0])
            found.append(ScanCase(splits[case.name], case.name, place, Prints(whole)))
    leaks, copies = find_copies(found)
    for line in copies:
        message(f"warning: {printable(line)}, so it counts twice")
    if leaks:
        more = f" (and {len(leaks) - 1} more)" if len(leaks) > 1 else ""
        raise UserError(
            f"{leaks[0]}; remove one of them and prepare again, no list was written{more}"
        )


def splits_of(preparation: Preparation, cases: Sequence[RawCase]) -> dict[str, str]:
    """The split of each case by name: train, unlabelled, val or test. Of a published data set, only the cases that its lists name."""
    dataset = preparation.settings["dataset"]
    if dataset == "own":
        return {case.name: case.part for case in cases}
    splits = {}
    for file, lines in published_lists(dataset).items():
        name = Path(file).stem
        split = name if name in WHOLE else "train"
        for line in lines:
            splits[preparation.listed(line)] = split
    return splits


def source_voxels(path: Path, case: RawCase) -> tuple[str, ...]:
    """The fingerprints of a case's scans, from its finished file or, where an older version made that, from the scans."""
    recorded = read_source_voxels(path)
    if recorded is not None:
        return recorded
    return tuple(fingerprint(read_scan(image).array) for image in case.images)


def prepare_case(preparation: Preparation, case: RawCase, root: Path, redo: bool) -> Done:
    """Make the files of one case unless they are there; UserError where they cannot be written, which would be so for every case."""
    if fault := case.fault or case.undecodable:
        return Done(case.name, failed=fault)
    warnings: list[str] = []
    failed: list[str] = []
    settings = preparation.settings
    with report_faults(case.images[0], failed.append):
        hashes = [sha256(path) for path in case.sources]
        if finished(root, preparation.mark(case), settings, hashes, redo, warnings.append):
            scans = source_voxels(root / preparation.mark(case), case)
            return Done(case.name, scans, kept=True)
        outputs = list(
            preparation.prepare(case, lambda line: warnings.append(line) if line else None)
        )
    if failed:
        return Done(case.name, failed=failed[0])
    others = [output.file for output in outputs[:-1]]
    made_of = provenance_attributes(settings, [path.name for path in case.sources], hashes, others)
    made_of[SOURCE_VOXELS] = outputs[-1].attributes[SOURCE_VOXELS]
    write_case(root, case.name, outputs, made_of)
    scans = tuple(json_texts(made_of[SOURCE_VOXELS]))
    return Done(case.name, scans, warnings=tuple(warnings))
