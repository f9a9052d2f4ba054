"""Report a registration: a table, pictures, and warnings that need no dense label."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from dataloaders.coarse import Coarse, read_coarse, training_label
from dataloaders.dataset_info import DatasetInfo
from dataloaders.hdf5 import read_case
from evaluation.metrics import mask_metrics
from registration.coarse_labels import AGAIN, PLANES, AnnotatedCase, early_end_warnings, extent_row
from registration.label_picture import LabelPicture, write_picture
from registration.settings import RegistrationSettings
from utils.errors import writing
from utils.files import replacing
from utils.messages import message
from utils.names import csv_cell
from utils.progress import progress
from utils.provenance import provenance

# Warn if the Dice of the two planes' labels is lower. Ten LA volumes had 0.51 to 0.74 with the
# published propagation and 0.81 to 0.87 with the improved one; the lowest values belonged to the
# worst labels. Dense ground truth is not used.
DISAGREEMENT = {"published": 0.55, "improved": 0.75}
COLUMNS = (
    "case",
    "plane",
    "axis",
    "annotated_slice",
    "slices",
    "first_slice",
    "last_slice",
    "died_below",
    "died_above",
    "beyond_other_plane",
    "failed_registrations",
    "agreement",
    "seconds",
)
TRUTH_COLUMNS = ("dice_coarse", "dice_training")
Row = dict[str, object]


def report(
    settings: RegistrationSettings,
    info: DatasetInfo,
    cases: Sequence[AnnotatedCase],
    seconds: Mapping[str, Sequence[float]],
    output: Path,
) -> None:
    """Write registration.csv, summary.json and a picture per case to `output`.

    Prints the means and the warnings. `seconds`: processor time of both planes of each case that
    was registered in this run.
    """
    rows: list[Row] = []
    warnings: list[str] = []
    columns = COLUMNS
    if settings.report_against_truth:
        columns += TRUTH_COLUMNS
    with writing(output, "free space or name another folder with --output_dir"):
        for case in progress(cases, desc="reporting", unit="case"):
            case_rows, case_warnings = _report_case(
                settings, info, case=case, seconds=seconds.get(case.name), output=output
            )
            rows += case_rows
            warnings += case_warnings
        _write_csv(output / "registration.csv", rows, columns=columns)
        summary = _summary(settings, rows, warnings=warnings)
        with replacing(output / "summary.json") as unfinished:
            unfinished.write_text(json.dumps(summary, indent=1) + "\n")
    for warning in warnings:
        message(f"warning: {warning}")
    message(_table(rows))


def _report_case(
    settings: RegistrationSettings,
    info: DatasetInfo,
    case: AnnotatedCase,
    seconds: Sequence[float] | None,
    output: Path,
) -> tuple[list[Row], list[str]]:
    """Write the picture of a case; returns the rows of both planes and the warnings."""
    image, truth = _read_image_and_truth(settings, info, case=case)
    planes = [read_coarse(path, AGAIN) for path in case.coarse]
    separate = [coarse.unfused for coarse in planes]
    agreement = mask_metrics(separate[0], separate[1]).dice
    rows: list[Row] = []
    warnings: list[str] = []
    for plane, coarse in enumerate(planes):
        row = extent_row(case, plane, label=coarse.unfused)
        row["failed_registrations"] = int(coarse.attributes["coarse_failed"])
        row["agreement"] = f"{agreement:.4f}"
        row["seconds"] = ""
        if seconds is not None:
            row["seconds"] = f"{seconds[plane]:.1f}"
        if truth is not None:
            row |= _truth_scores(case, plane, coarse=coarse, truth=truth)
        rows.append(row)
        warnings += early_end_warnings(case, plane, label=coarse.unfused)
    limit = DISAGREEMENT[settings.propagation]
    if agreement < limit:
        warnings.append(
            f"{case.name}: the labels of the two planes disagree (Dice {agreement:.2f}, "
            f"below {limit}); check its picture"
        )
    picture = LabelPicture(
        name=case.name,
        image=image,
        annotated=case.annotated,
        labels=[coarse.label for coarse in planes],
        separate=separate,
        agreement=agreement,
        axes=info.axes,
    )
    write_picture(output / f"{case.name}.png", picture)
    return rows, warnings


def _read_image_and_truth(
    settings: RegistrationSettings, info: DatasetInfo, case: AnnotatedCase
) -> tuple[np.ndarray, np.ndarray | None]:
    """The first channel of the image; the dense label (uint8 0/1) with --report_against_truth."""
    image, label, _ = read_case(
        case.path, info, dims=info.dims, label=settings.report_against_truth
    )
    if label is None:
        return image[0], None
    return image[0], info.task_label(label)


def _truth_scores(case: AnnotatedCase, plane: int, coarse: Coarse, truth: np.ndarray) -> Row:
    """Dice of the coarse label, and of what training reads of it, against the dense label."""
    seen_in_training = training_label(coarse.label, case.annotated[1 - plane])
    return {
        "dice_coarse": f"{mask_metrics(coarse.label, truth).dice:.4f}",
        "dice_training": f"{mask_metrics(seen_in_training, truth).dice:.4f}",
    }


def _write_csv(path: Path, rows: Sequence[Row], columns: Sequence[str]) -> None:
    with replacing(path) as unfinished, open(unfinished, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for row in rows:
            writer.writerow(row | {"case": csv_cell(str(row["case"]))})


def _means(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Mean over the cases of each measured value, for each plane."""
    keys = [key for key in ("agreement", *TRUTH_COLUMNS) if key in rows[0]]
    means: dict[str, dict[str, float]] = {}
    for plane in PLANES:
        plane_rows = [row for row in rows if row["plane"] == plane]
        means[plane] = {}
        for key in keys:
            values = [float(str(row[key])) for row in plane_rows]
            means[plane][key] = float(np.mean(values))
    return means


def _summary(
    settings: RegistrationSettings, rows: Sequence[Row], warnings: Sequence[str]
) -> dict[str, object]:
    dense_truth = "not read"
    if settings.report_against_truth:
        dense_truth = "read only for the Dice columns of this report"
    return {
        "settings": _plain_settings(settings),
        "cases": len(rows) // 2,
        "mean": _means(rows),
        "warnings": list(warnings),
        "dense_truth": dense_truth,
        **provenance(),
    }


def _plain_settings(settings: RegistrationSettings) -> dict[str, object]:
    """The settings as JSON holds them: everything except numbers, texts and None as text."""
    values = asdict(settings)
    for key, value in values.items():
        if value is not None and not isinstance(value, int | str):
            values[key] = str(value)
    return values


def _table(rows: Sequence[Row]) -> str:
    """The means as a table for the terminal."""
    means = _means(rows)
    head = "".join(f"{key:>15}" for key in means[PLANES[0]])
    lines = [f"{'mean over cases':<18}{head}"]
    for plane, values in means.items():
        cells = "".join(f"{value:>15.4f}" for value in values.values())
        lines.append(f"  {plane:<16}{cells}")
    return "\n".join(lines)
