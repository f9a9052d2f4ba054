"""--nsd_tolerance: its values, where they appear, and results that they make incomparable."""

import csv
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from raw_scans import blob, write_scan
from scripts import compare, score

import fewlabels
from evaluation.results import summarise, table, write_results
from evaluation.scores import score_case
from evaluation.tolerance import class_tolerances, in_words
from utils.case import Case
from utils.errors import UserError

CLASSES = ("liver", "right tumour")
NAMES = ("background", "organ")
SHAPE = (8, 9, 10)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), (2, 2)),
        (("3.5",), (3.5, 3.5)),
        (("liver=3",), (3, 2)),
        (("liver=3", "right tumour=1"), (3, 1)),
        (("right tumour=1", "4"), (4, 1)),
        (("0",), (0, 0)),
    ],
)
def test_each_class_has_its_tolerance(words: Sequence[str], expected: tuple[float, float]):
    assert class_tolerances(words, CLASSES) == dict(zip(CLASSES, expected, strict=True))


def test_a_class_may_have_an_equals_sign_in_its_name():
    assert class_tolerances(("T=1=3",), ("T=1",)) == {"T=1": 3}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("kidney=3",), "--nsd_tolerance kidney=3: no such class; choose from liver, right tumour"),
        (("liver",), "--nsd_tolerance liver: not a distance in mm; give a number of at least 0"),
        (("liver=",), "--nsd_tolerance liver=: not a distance"),
        (("liver=-1",), "--nsd_tolerance liver=-1: not a distance"),
        (("nan",), "--nsd_tolerance nan: not a distance"),
        (("inf",), "--nsd_tolerance inf: not a distance"),
        (("2", "3"), "--nsd_tolerance 2 3: has two numbers for all classes; give one"),
        (("liver=2", "liver=3"), "--nsd_tolerance liver=3: liver already has a tolerance"),
    ],
)
def test_a_tolerance_that_cannot_be_used_is_named_with_the_remedy(
    words: Sequence[str], message: str
):
    with pytest.raises(UserError) as error:
        class_tolerances(words, CLASSES)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("tolerances", "expected"), [((2.0, 2.0), "2 mm"), ((1.0, 3.5), "1 to 3.5 mm")]
)
def test_tolerances_in_words(tolerances: tuple[float, float], expected: str):
    assert in_words(dict(zip(CLASSES, tolerances, strict=True)), "mm") == expected


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """A plate for each of the values 1 and 2, predicted one slice of 3 mm too high."""
    truth = blob(SHAPE, (1, 1, 1), (3, 7, 1)) + blob(SHAPE, (5, 1, 1), (7, 7, 1), 2)
    write_scan(tmp_path / "labels" / "a.nii.gz", truth, (1, 1, 3))
    write_scan(tmp_path / "predictions" / "a.nii.gz", np.roll(truth, 1, axis=2), (1, 1, 3))
    return tmp_path


def evaluated(root: Path, *flags: str) -> dict:
    """Score the folders and return summary.json."""
    where = ["--predictions", str(root / "predictions"), "--labels", str(root / "labels")]
    assert score([*where, "--workers", "1", *flags]) == 0
    return json.loads((root / "predictions" / "summary.json").read_text(encoding="utf-8"))


def nsd_in_mm(summary: Mapping) -> list[float]:
    return [row["nsd_mm"] for row in summary["honest"]["millimetres"]["classes"].values()]


def test_evaluate_has_2_mm_by_default(folders: Path):
    summary = evaluated(folders)
    assert summary["nsd_tolerance"] == {"1": 2.0, "2": 2.0}
    assert nsd_in_mm(summary) == [0.0, 0.0]


def test_evaluate_takes_a_tolerance_for_one_class(folders: Path):
    summary = evaluated(folders, "--nsd_tolerance", "2", "1=3")
    assert summary["nsd_tolerance"] == {"1": 3.0, "2": 2.0}
    assert nsd_in_mm(summary) == [1.0, 0.0]


def test_nsd_voxel_has_the_tolerance_in_voxels(folders: Path):
    summary = evaluated(folders, "--nsd_tolerance", "1=0.5", "2=1")
    classes = summary["as_published"]["classes"].values()
    assert [row["nsd_voxel"] for row in classes] == [0.0, 1.0]


def test_from_python_a_tolerance_is_a_number_or_numbers_by_class(folders: Path):
    where = (folders / "predictions", folders / "labels")
    one = fewlabels.evaluate(*where, nsd_tolerance=3, workers=1, progress=False)
    assert nsd_in_mm(one.summary) == [1.0, 1.0]
    by_class = fewlabels.evaluate(*where, nsd_tolerance={"2": 3}, workers=1, progress=False)
    assert nsd_in_mm(by_class.summary) == [0.0, 1.0]


def plate(spacing: tuple[float, ...] | None) -> tuple[Case, np.ndarray]:
    """A case with a plate of 16 voxels, and the plate predicted one slice higher."""
    label = np.zeros((8, 6, 6), np.uint8)
    label[2, 1:5, 1:5] = 1
    return Case("a", label[None].astype(np.float32), label, spacing), np.roll(label, 1, axis=0)


def write_test(folder: Path, tolerance: float, spacing: tuple[float, ...] | None) -> None:
    case, prediction = plate(spacing)
    scores = score_case(case, prediction, NAMES, tolerances={"organ": tolerance})
    summary = {"dataset": "own", "split": "test.list", "cases": 1, **summarise(scores)}
    folder.mkdir()
    write_results(folder, scores, summary)


def compared(output: Path, *folders: Path) -> tuple[dict, str]:
    """compare.json and the page."""
    compare([*map(str, folders), "--output", str(output), "--no-pictures"])
    numbers = json.loads((output / "compare.json").read_text(encoding="utf-8"))
    return numbers, (output / "index.html").read_text(encoding="utf-8")


def test_without_a_spacing_only_nsd_in_voxels_is_known(tmp_path: Path):
    write_test(tmp_path / "test", 1, spacing=None)
    with open(tmp_path / "test" / "metrics.csv", encoding="utf-8") as file:
        row = next(csv.DictReader(file))
    assert (row["nsd_voxel"], row["nsd_mm"]) == ("1.000000", "")


@pytest.mark.parametrize(
    ("spacing", "expected"),
    [
        (None, "NSD tolerance: 1.5 voxels\n"),
        ((2.0, 1.0, 1.0), "NSD tolerance: 1.5 voxels; where distances are in mm: 1.5 mm\n"),
    ],
)
def test_the_printed_table_names_the_tolerance(spacing: tuple[float, ...] | None, expected: str):
    case, prediction = plate(spacing)
    scores = score_case(case, prediction, NAMES, tolerances={"organ": 1.5})
    assert expected in table(summarise(scores))


def test_heads_of_the_page_name_the_tolerance_and_its_unit(tmp_path: Path):
    write_test(tmp_path / "test", 3, spacing=(1.0, 1.0, 1.0))
    numbers, page = compared(tmp_path / "page", tmp_path / "test")
    assert numbers["nsd_tolerance"] == {"organ": 3.0}
    assert '<th scope="col">NSD at 3 voxels</th>' in page
    assert '<th scope="col">NSD at 3 mm</th>' in page


def test_results_of_different_tolerances_are_not_compared(tmp_path: Path):
    write_test(tmp_path / "first", 2, spacing=None)
    write_test(tmp_path / "second", 3, spacing=None)
    message = r"second: NSD's tolerances are organ 3, but .*first has organ 2; test or score both"
    with pytest.raises(UserError, match=message):
        compared(tmp_path / "page", tmp_path / "first", tmp_path / "second")


@pytest.mark.parametrize("damaged", ["2", {"organ": "2"}, {"liver": 2.0}])
def test_a_damaged_tolerance_is_reported_with_the_file(tmp_path: Path, damaged: object):
    write_test(tmp_path / "test", 2, spacing=None)
    path = tmp_path / "test" / "summary.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(content | {"nsd_tolerance": damaged}), encoding="utf-8")
    with pytest.raises(UserError, match=r"summary\.json: damaged, 'nsd_tolerance.*; test again"):
        compared(tmp_path / "page", tmp_path / "test")


@pytest.mark.parametrize("has_hash", [True, False])
def test_a_test_that_is_older_than_nsd_is_compared(tmp_path: Path, has_hash: bool):
    write_test(tmp_path / "new", 2, spacing=(1.0, 1.0, 1.0))
    write_test(tmp_path / "old", 2, spacing=(1.0, 1.0, 1.0))
    make_older(tmp_path / "old", has_hash=has_hash)
    numbers, _ = compared(tmp_path / "page", tmp_path / "old", tmp_path / "new")
    old, new = (group["figures"]["honest_mm"]["organ"] for group in numbers["groups"])
    assert (old["hd95_mm"]["mean"], old["nsd_mm"]) == (1.0, None)
    assert new["nsd_mm"]["mean"] == 1.0


def make_older(folder: Path, has_hash: bool) -> None:
    """Turn a test's files into those of a version that had only the published four metrics."""
    content = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    means = (content["as_published"], content["honest"], content["honest"]["millimetres"])
    for part in means:
        for row in (part["mean"], *part["classes"].values()):
            for key in [key for key in row if key.startswith(("hd95_max", "assd", "nsd"))]:
                del row[key]
    del content["nsd_tolerance"]
    lines = (folder / "metrics.csv").read_text(encoding="utf-8").splitlines()
    metrics = "\r\n".join(",".join(line.split(",")[:14]) for line in lines) + "\r\n"
    (folder / "metrics.csv").write_bytes(metrics.encode())
    del content["metrics_sha256"]
    if has_hash:
        content["metrics_sha256"] = hashlib.sha256(metrics.encode()).hexdigest()
    (folder / "summary.json").write_text(json.dumps(content), encoding="utf-8")
