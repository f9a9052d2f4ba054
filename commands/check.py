"""Look at data before hours of training: a table, check.json, a picture of each case on request."""

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from pathlib import Path

from datasets.checks.across_cases import across
from datasets.checks.case_check import CaseFound
from datasets.checks.layout import Found, find
from utils.cli import parse
from utils.errors import writing
from utils.files import name_fault, remove_unfinished, replacing, shown
from utils.messages import error_message, message
from utils.names import printable
from utils.progress import progress
from utils.provenance import provenance
from utils.workers import check_processes, ended_processes, terminated, worker_pool

SHOWN = 20  # lines of one kind that are printed; check.json has all


@dataclass(frozen=True)
class CheckSettings:
    root_path: Path
    """Folder to check: raw data in nnU-Net's layout, or prepared ones, what training takes as
    --root_path.
    """
    dataset: str = ""
    """Of prepared data: name of the data set or file of a page; default: found by plan.json or by
    the files that lists name.
    """
    output: Path | None = None
    """Folder for check.json and pictures; default: --root_path."""
    pictures: bool = False
    """Draw every case, its label over it, into check_pictures/ (they show scans: keep them where
    the data's terms allow).
    """
    workers: int = 0
    """Processes; 0: one a processor. Each holds one case at a time."""


@dataclass(frozen=True)
class CheckResult:
    """What a check found.

    `layout`: raw or prepared, in words. `errors` and `warnings`: one line each, of all cases.
    `file`: check.json. `pictures`: the folder of the pictures, None if none were drawn.
    """

    dataset: str
    layout: str
    cases: tuple[str, ...]
    errors: tuple[str, ...]
    warnings: tuple[str, ...]
    file: Path
    pictures: Path | None


def check(argv: Sequence[str] | None = None, description: str | None = None) -> int:
    """Check a data set; see `CheckSettings`. Returns 2 where there is an error, else 0."""
    result = run(parse(CheckSettings, argv, description=description))
    return 2 if result.errors else 0


def run(s: CheckSettings) -> CheckResult:
    """Check a data set and write check.json.

    Raises UserError where no data set is found, or nothing can be written.
    """
    check_processes("workers", s.workers)
    found, output = find(s.root_path, s.dataset), s.output or s.root_path
    pictures = output / "check_pictures" if s.pictures else None
    with writing(output, "name another place with --output"):
        (pictures or output).mkdir(parents=True, exist_ok=True)
    remove_unfinished(output, below=False)
    try:
        cases = _look(found, pictures, s.workers)
    finally:
        if pictures:
            remove_unfinished(pictures)
    errors, warnings = across(cases, found.classes)
    errors = [*found.errors, *(line for case in cases for line in case.errors), *errors]
    warnings = [*found.warnings, *(line for case in cases for line in case.warnings), *warnings]
    about = {"dataset": found.name, "layout": found.layout, "errors": errors, "warnings": warnings}
    content = {**about, "cases": [case.plain() for case in cases], **provenance()}
    with (
        writing(output / "check.json", "free space or name another place with --output"),
        replacing(output / "check.json") as unfinished,
    ):
        unfinished.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    message(table(cases))
    _send("warning", warnings, message)
    _send("error", errors, error_message)
    drawn = f", pictures are in {pictures}" if pictures else ""
    message(
        f"{printable(found.name)} ({found.layout}): {len(cases)} cases, {len(errors)} errors, "
        f"{len(warnings)} warnings; "
        f"all of them are in {output / 'check.json'}{drawn}"
    )
    return CheckResult(
        dataset=found.name,
        layout=found.layout,
        cases=tuple(case.name for case in cases),
        errors=tuple(errors),
        warnings=tuple(warnings),
        file=output / "check.json",
        pictures=pictures,
    )


def _look(found: Found, pictures: Path | None, workers: int) -> list[CaseFound]:
    """The cases, in the order of the jobs."""
    with (
        ended_processes(""),
        terminated("check.json was not written"),
        progress(total=len(found.jobs), desc="checking", unit="case") as bar,
        worker_pool(min(workers or os.cpu_count() or 1, max(len(found.jobs), 1))) as pool,
    ):
        jobs = [
            pool.submit(job.look, *job.arguments, _picture_path(pictures, job.name))
            for job in found.jobs
        ]
        for _ in as_completed(jobs):
            bar.update()
        return [job.result() for job in jobs]


def _picture_path(pictures: Path | None, name: str) -> Path | None:
    """Where the picture of a case goes; None where none is drawn: no case whose name is refused has
    files of that name.
    """
    if pictures is None or name_fault(name):
        return None
    return pictures / f"{name}.png"


def table(cases: Sequence[CaseFound]) -> str:
    """A row for each case."""
    rows = [("case", "split", "voxels", "mm", "axes", "values", "label", "")]
    for case in cases:
        size = " x ".join(map(str, case.shape))
        spacing = (
            "" if case.spacing_mm is None else " x ".join(f"{mm:.3g}" for mm in case.spacing_mm)
        )
        values = "" if case.low is None else f"{case.low:.4g} .. {case.high:.4g}"
        counts = [(len(case.errors), "error"), (len(case.warnings), "warning")]
        said = (
            ", ".join(
                f"{count} {word}{'s' if count > 1 else ''}" for count, word in counts if count
            )
            or "good"
        )
        rows.append(
            (shown(case.name), case.split, size, spacing, case.axes, values, _classes(case), said)
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _classes(case: CaseFound) -> str:
    """The values that a label holds, as many as a row has room for."""
    if case.voxels is None:
        return "-"
    values = [str(value) for value in case.voxels if value]
    return (
        " ".join(values[:6]) + (f" ... ({len(values)})" if len(values) > 6 else "")
        if values
        else "empty"
    )


def _send(word: str, lines: Sequence[str], send: Callable[[str], None]) -> None:
    for line in lines[:SHOWN]:
        send(f"{word}: {printable(line)}")
    if len(lines) > SHOWN:
        send(f"{word}: {len(lines) - SHOWN} more, in check.json")
