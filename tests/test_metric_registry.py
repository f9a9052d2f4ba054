"""A metric is one function: the example of docs/extending.md appears in files, tables and the
comparison.
"""

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scripts import compare

from evaluation.masks import mask_pair
from evaluation.metrics import MASK_METRICS, OVERLAP_METRICS, overlap_metric
from evaluation.results import columns, summarise, table, write_results
from evaluation.scores import score_case
from utils.case import Case

DOCS = Path(__file__).parents[1] / "docs" / "extending.md"
NAMES = ("background", "organ")
EARLIER_COLUMNS = [
    "case",
    "class",
    "dice",
    "jaccard",
    "hd95_voxel",
    "asd_voxel",
    "hd95_mm",
    "asd_mm",
    "empty_prediction",
    "empty_truth",
    "honest_dice",
    "honest_jaccard",
    "honest_hd95_voxel",
    "honest_asd_voxel",
]
LATER_COLUMNS = [
    "hd95_max_voxel",
    "assd_voxel",
    "nsd_voxel",
    "hd95_max_mm",
    "assd_mm",
    "nsd_mm",
    "honest_hd95_max_voxel",
    "honest_assd_voxel",
    "honest_nsd_voxel",
]


def example() -> str:
    """The example of docs/extending.md."""
    text = DOCS.read_text(encoding="utf-8")
    return re.findall(r"```python\n# evaluation/metrics.py\n(.*?)```", text, re.DOTALL)[0]


@pytest.fixture
def beyond(monkeypatch):
    """The metric of the example, registered for one test."""
    monkeypatch.setattr("evaluation.metrics.MASK_METRICS", dict(MASK_METRICS))
    namespace: dict = {}
    exec(compile(example(), "evaluation/metrics.py", "exec"), namespace)
    return namespace["beyond_5mm"]


def plates(apart: int, spacing=(1.5, 1.0, 1.0)) -> tuple[Case, np.ndarray]:
    """A plate of 4 x 4 voxels in a case, and one that was predicted `apart` slices above it."""
    label = np.zeros((8, 6, 6), np.uint8)
    label[2, 1:5, 1:5] = 1
    prediction = np.roll(label, apart, axis=0)
    return Case("a", label[None].astype(np.float32), label, spacing), prediction


def write_test(folder: Path, case: Case, prediction: np.ndarray) -> None:
    scores = score_case(case, prediction, NAMES)
    summary = {"dataset": "own", "split": "test.list", "cases": 1, **summarise(scores)}
    folder.mkdir()
    write_results(folder, scores, summary)


def read_row(folder: Path) -> dict[str, str]:
    with open(folder / "metrics.csv", encoding="utf-8") as file:
        return next(csv.DictReader(file))


def test_the_published_columns_keep_their_names_and_order():
    assert columns()[:14] == EARLIER_COLUMNS


def test_further_columns_are_appended():
    assert columns()[14:] == LATER_COLUMNS


def test_the_example_counts_voxels_of_the_predicted_border_beyond_5_mm(beyond):
    prediction = np.zeros((3, 9), bool)
    truth = np.zeros((3, 9), bool)
    prediction[1, 0:4] = True
    truth[1, 3:8] = True
    # prediction to truth: 3 2 1 0 voxels of 2 mm
    assert beyond(mask_pair(prediction, truth, (2.0, 2.0))) == 0.25


@pytest.mark.parametrize(("apart", "expected"), [(3, 0.0), (4, 1.0)])
def test_a_new_metric_is_in_metrics_csv(beyond, tmp_path, apart, expected):
    write_test(tmp_path / "test", *plates(apart))
    assert float(read_row(tmp_path / "test")["beyond_5mm"]) == expected


def test_a_new_metric_changes_no_other_column(beyond):
    assert [name for name in columns() if name != "beyond_5mm"] == EARLIER_COLUMNS + LATER_COLUMNS


def test_a_metric_in_mm_is_empty_where_the_spacing_is_unknown(beyond, tmp_path):
    write_test(tmp_path / "test", *plates(1, spacing=None))
    assert read_row(tmp_path / "test")["beyond_5mm"] == ""


def test_an_empty_prediction_gets_the_worst_value_of_a_new_metric(beyond):
    case, _ = plates(1)
    (score,) = score_case(case, np.zeros_like(case.label), NAMES)
    assert score.penalised_mm.values["beyond_5mm"] == 1.0


def test_a_correct_empty_prediction_gets_the_best_value_of_a_new_metric(beyond):
    case, _ = plates(1)
    empty = replace(case, label=np.zeros_like(case.label))
    (score,) = score_case(empty, empty.label, NAMES)
    assert score.penalised_mm.values["beyond_5mm"] == 0.0


def test_a_new_metric_is_in_the_printed_table(beyond):
    assert "Border beyond 5 mm" in table(summarise(score_case(*plates(1), NAMES)))


def test_a_new_metric_is_compared_and_absent_values_are_shown_as_a_dash(
    monkeypatch, beyond, tmp_path
):
    """The first run was tested before the metric existed."""
    with monkeypatch.context() as earlier:
        registered = {name: MASK_METRICS[name] for name in ("hd95", "asd")}
        earlier.setattr("evaluation.metrics.MASK_METRICS", registered)
        write_test(tmp_path / "earlier", *plates(1))
    write_test(tmp_path / "new", *plates(4))
    output = tmp_path / "page"
    compare([*(str(tmp_path / name) for name in ("earlier", "new")), "--output", str(output)])
    numbers = json.loads((output / "compare.json").read_text(encoding="utf-8"))
    first, second = (group["figures"]["honest_mm"]["organ"] for group in numbers["groups"])
    assert first["beyond_5mm"] is None
    assert second["beyond_5mm"]["mean"] == 1.0
    assert numbers["groups"][1]["against_first"]["honest_mm"]["organ"]["beyond_5mm"] is None
    page = (output / "index.html").read_text(encoding="utf-8")
    assert '<th scope="col">Border beyond 5 mm</th>' in page


def test_an_overlap_metric_follows_from_the_counts(monkeypatch):
    monkeypatch.setattr("evaluation.metrics.OVERLAP_METRICS", dict(OVERLAP_METRICS))

    @overlap_metric("Precision")
    def precision(counts):
        return counts.common / counts.predicted

    case, prediction = plates(0)
    prediction[3, 1:5, 1:5] = 1  # 16 of 32 predicted voxels are right
    (score,) = score_case(case, prediction, NAMES)
    assert score.published.values["precision"] == 0.5
