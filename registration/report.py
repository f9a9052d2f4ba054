"""What the registration of a data set gave: a table, a picture per case, and warnings that need no dense label."""

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from dataloaders.coarse import read_coarse, training_label
from dataloaders.facts import DatasetFacts
from dataloaders.hdf5 import read_case
from registration.labels import AGAIN, PLANES, Case, early_end, figures
from registration.picture import write_picture
from registration.settings import RegistrationSettings
from utils.errors import writing
from utils.files import replacing
from utils.metrics import mask_metrics
from utils.names import csv_cell
from utils.progress import progress
from utils.provenance import provenance

# Planes disagree strongly where their labels' Dice is lower: ten LA volumes gave 0.51 to 0.74 as published, 0.81 to 0.87 improved,
# the lowest for the worst labels. It does not look at dense truth.
DISAGREEMENT = {"published": 0.55, "improved": 0.75}
COLUMNS = (
    *(
        "case",
        "plane",
        "axis",
        "annotated_slice",
        "slices",
        "first_slice",
        "last_slice",
        "died_below",
        "died_above",
    ),
    *("beyond_other_plane", "failed_registrations", "agreement", "seconds"),
)
TRUTH_COLUMNS = ("dice_coarse", "dice_training")


def report(
    s: RegistrationSettings,
    facts: DatasetFacts,
    cases: Sequence[Case],
    seconds: dict[str, list[float]],
    output: Path,
) -> None:
    """Write registration.csv, summary.json and a picture per case to `output`, print the means and what looks wrong. `seconds`: of each
    case that was registered now, those of its planes."""
    rows, warnings = [], []
    with writing(output, "free space or name another place with --output_dir"):
        for case in progress(cases, desc="reporting", unit="case"):
            (image, *_), truth, _ = read_case(
                case.path, facts, facts.dims, label=s.report_against_truth
            )
            truth = None if truth is None else facts.task_label(truth)
            planes = [read_coarse(path, AGAIN) for path in case.coarse]
            labels, alone = [coarse.label for coarse in planes], [coarse.alone for coarse in planes]
            agreement = mask_metrics(*alone).dice
            for plane in (0, 1):
                row = figures(case, plane, alone[plane])
                taken = f"{seconds[case.name][plane]:.1f}" if case.name in seconds else ""
                failed = int(planes[plane].attributes["coarse_failed"])
                row |= {
                    "failed_registrations": failed,
                    "agreement": f"{agreement:.4f}",
                    "seconds": taken,
                }
                if truth is not None:
                    row["dice_coarse"] = f"{mask_metrics(labels[plane], truth).dice:.4f}"
                    row["dice_training"] = (
                        f"{mask_metrics(training_label(labels[plane], case.annotated[1 - plane]), truth).dice:.4f}"
                    )
                rows.append(row)
                warnings += early_end(case, plane, alone[plane])
            if agreement < DISAGREEMENT[s.propagation]:
                limit = DISAGREEMENT[s.propagation]
                warnings.append(
                    f"{case.name}: the two planes' labels agree badly (Dice {agreement:.2f}, below {limit}); look at its picture"
                )
            write_picture(
                output / f"{case.name}.png",
                case.name,
                image,
                case.annotated,
                labels,
                alone,
                agreement,
                facts.axes,
            )
        _write_csv(
            output / "registration.csv",
            rows,
            (*COLUMNS, *(TRUTH_COLUMNS if s.report_against_truth else ())),
        )
        with replacing(output / "summary.json") as unfinished:
            unfinished.write_text(json.dumps(_summary(s, rows, warnings), indent=1) + "\n")
    for warning in warnings:
        print(f"warning: {warning}")
    print(_table(rows))


def _write_csv(path: Path, rows: Sequence[dict], columns: Sequence[str]) -> None:
    with replacing(path) as unfinished, open(unfinished, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for row in rows:
            writer.writerow(row | {"case": csv_cell(row["case"])})


def _means(rows: Sequence[dict]) -> dict:
    """Mean of each measured figure over the cases, for each plane."""
    keys = [key for key in ("agreement", *TRUTH_COLUMNS) if key in rows[0]]
    return {
        plane: {
            key: float(np.mean([float(r[key]) for r in rows if r["plane"] == plane]))
            for key in keys
        }
        for plane in PLANES
    }


def _summary(s: RegistrationSettings, rows: Sequence[dict], warnings: Sequence[str]) -> dict:
    return {
        "settings": {
            key: value if isinstance(value, (int, str)) or value is None else str(value)
            for key, value in asdict(s).items()
        },
        "cases": len(rows) // 2,
        "mean": _means(rows),
        "warnings": list(warnings),
        "dense_truth": "read for the Dice columns of this report alone"
        if s.report_against_truth
        else "not read",
        **provenance(),
    }


def _table(rows: Sequence[dict]) -> str:
    lines = [
        f"{'mean over cases':<18}"
        + "".join(f"{key:>15}" for key in next(iter(_means(rows).values())))
    ]
    return "\n".join(
        lines
        + [
            f"  {plane:<16}" + "".join(f"{value:>15.4f}" for value in part.values())
            for plane, part in _means(rows).items()
        ]
    )
