"""Check data before hours of training: a table, check.json and pictures on request."""

import json
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from commands.next_command import next_command, next_preparation
from datasets.checks.across_cases import check_across
from datasets.checks.case_check import CaseCheck
from datasets.checks.layout import DataFolder, recognise
from utils.errors import writing
from utils.files import name_fault, remove_unfinished, replacing, shown
from utils.messages import error_message, message
from utils.names import printable
from utils.progress import progress
from utils.provenance import provenance
from utils.workers import check_processes, ended_processes, terminated, worker_pool

SHOWN = 20
"""Lines of one kind that are printed; check.json has all."""
HEADER = ("case", "split", "voxels", "mm", "axes", "values", "label", "")
LABEL_VALUES = 6
"""Label values that a row has space for."""


@dataclass(frozen=True)
class CheckSettings:
    """Which data are checked, and how."""

    root_path: Path
    """Folder to check: raw data in nnU-Net's layout, or prepared data, which training takes as
    --root_path.
    """
    dataset: str = ""
    """Prepared data: name of the data set, or the Python file that describes it.

    Default: recognised by plan.json or by the files that lists name.
    """
    output: Path | None = None
    """Folder for check.json and pictures. Default: --root_path."""
    pictures: bool = False
    """Draw every case with its label into check_pictures/.

    The pictures show scans: store them only where the data's terms allow it.
    """
    workers: int = 0
    """Number of processes; 0: one for each processor. Each has one case in memory at a time."""


@dataclass(frozen=True)
class CheckResult:
    """The result of a check.

    `layout`: raw or prepared. `errors` and `warnings`: one line each, of all cases. `file`:
    check.json. `pictures`: the folder of the pictures, None if none were drawn.
    """

    dataset: str
    layout: str
    cases: tuple[str, ...]
    errors: tuple[str, ...]
    warnings: tuple[str, ...]
    file: Path
    pictures: Path | None


def run(settings: CheckSettings) -> CheckResult:
    """Check a data set and write check.json.

    Raises UserError where the folder has no data set, or nothing can be written.
    """
    check_processes("workers", settings.workers)
    folder = recognise(settings.root_path, settings.dataset)
    output = settings.output or settings.root_path
    pictures = output / "check_pictures" if settings.pictures else None
    with writing(output, "choose another folder with --output"):
        (pictures or output).mkdir(parents=True, exist_ok=True)
    remove_unfinished(output, below=False)
    try:
        cases = _check_cases(folder, pictures, workers=settings.workers)
    finally:
        if pictures:
            remove_unfinished(pictures)
    errors, warnings = check_across(cases, folder.classes, preparation=folder.preparation)
    errors = [*folder.errors, *chain.from_iterable(case.errors for case in cases), *errors]
    warnings = [*folder.warnings, *chain.from_iterable(case.warnings for case in cases), *warnings]
    result = CheckResult(
        dataset=folder.name,
        layout=folder.layout,
        cases=tuple(case.name for case in cases),
        errors=tuple(errors),
        warnings=tuple(warnings),
        file=output / "check.json",
        pictures=pictures,
    )
    _write(result, cases)
    _report(result, cases, folder=folder, root=settings.root_path)
    return result


def _check_cases(folder: DataFolder, pictures: Path | None, workers: int) -> list[CaseCheck]:
    """Check the cases in processes; the results are in the order of the jobs."""
    count = len(folder.jobs)
    with (
        ended_processes(""),
        terminated("check.json was not written"),
        progress(total=count, desc="checking", unit="case") as bar,
        worker_pool(min(workers or os.cpu_count() or 1, max(count, 1))) as pool,
    ):
        jobs = [pool.submit(job.check, _picture_path(pictures, job.name)) for job in folder.jobs]
        for _ in as_completed(jobs):
            bar.update()
        return [job.result() for job in jobs]


def _picture_path(pictures: Path | None, name: str) -> Path | None:
    """The file for the picture of a case; None if it gets none, as a case whose name no file can
    have.
    """
    if pictures is None or name_fault(name):
        return None
    return pictures / f"{name}.png"


def _write(result: CheckResult, cases: Iterable[CaseCheck]) -> None:
    """Write check.json."""
    content: dict[str, Any] = {
        "dataset": result.dataset,
        "layout": result.layout,
        "errors": result.errors,
        "warnings": result.warnings,
        "cases": [case.plain() for case in cases],
    }
    content |= provenance()
    with (
        writing(result.file, "free space or choose another folder with --output"),
        replacing(result.file) as unfinished,
    ):
        unfinished.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _report(
    result: CheckResult, cases: Iterable[CaseCheck], *, folder: DataFolder, root: Path
) -> None:
    """Print the table, the first lines of each kind, a summary and, without errors, the next
    command.
    """
    message(table(cases))
    _report_lines("warning", result.warnings, report=message)
    _report_lines("error", result.errors, report=error_message)
    drawn = f", pictures are in {result.pictures}" if result.pictures else ""
    message(
        f"{printable(result.dataset)} ({result.layout}): {len(result.cases)} cases, "
        f"{len(result.errors)} errors, {len(result.warnings)} warnings; "
        f"all of them are in {result.file}{drawn}"
    )
    if not result.errors:
        message(_next_command(folder, root))


def _next_command(folder: DataFolder, root: Path) -> str:
    """The command that prepares raw data, or that uses prepared data first."""
    if folder.layout == "raw":
        return next_preparation(root)
    return next_command(*folder.script, "--root_path", root)


def _report_lines(word: str, lines: Sequence[str], report: Callable[[str], None]) -> None:
    for line in lines[:SHOWN]:
        report(f"{word}: {printable(line)}")
    if len(lines) > SHOWN:
        report(f"{word}: {len(lines) - SHOWN} more, in check.json")


def table(cases: Iterable[CaseCheck]) -> str:
    """A table with a row for each case."""
    rows = [HEADER, *map(_row, cases)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _row(case: CaseCheck) -> tuple[str, ...]:
    spacing = ""
    if case.spacing_mm is not None:
        spacing = " x ".join(f"{mm:.3g}" for mm in case.spacing_mm)
    values = ""
    if case.low is not None and case.high is not None:
        values = f"{case.low:.4g} .. {case.high:.4g}"
    counts = []
    for count, word in ((len(case.errors), "error"), (len(case.warnings), "warning")):
        if count:
            plural = "s" if count > 1 else ""
            counts.append(f"{count} {word}{plural}")
    return (
        shown(case.name),
        case.split,
        " x ".join(map(str, case.shape)),
        spacing,
        case.axes,
        values,
        _label_values(case),
        ", ".join(counts) or "good",
    )


def _label_values(case: CaseCheck) -> str:
    """The values of a label, as many as a row has space for."""
    if case.voxels is None:
        return "-"
    values = [str(value) for value in case.voxels if value]
    if not values:
        return "empty"
    text = " ".join(values[:LABEL_VALUES])
    if len(values) > LABEL_VALUES:
        text += f" ... ({len(values)})"
    return text
