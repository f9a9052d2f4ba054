"""Which cases and slices are suggested for annotation, by hand, and the files for it."""

import csv
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import threshold
import torch
from raw_scans import ORIENTATIONS, write_scan
from scripts import main_of, predict

import fewlabels
from commands.suggest_choice import Candidate, best_slice, choose, k_center, points
from networks.registry import build
from utils.errors import UserError

SHAPE = (14, 12, 10)
suggest = main_of("suggest")


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    threshold.register(monkeypatch)


def case(name: str, uncertainty: float, position: float, volume: int = 1) -> Candidate:
    return Candidate(name, uncertainty, (volume,), np.array([position], np.float32))


def names(cases) -> list[str]:
    return [one.name for one in cases]


def test_k_center_takes_the_farthest_of_four_points():
    """Points 0, 1, 5 and 6 on a line, center 0.5: first 6 (distance 5.5), then 0 and 1 are 0.5 away,
    5 is 1 away from 6.
    """
    vectors = np.array([[0.0], [1.0], [5.0], [6.0]])
    assert k_center(vectors, np.array([[0.5]]), 3, first=0) == [3, 2, 0]


def test_k_center_without_centers_begins_with_the_first():
    vectors = np.array([[0.0], [1.0], [5.0], [6.0]])
    assert k_center(vectors, np.empty((0, 1)), 2, first=1) == [1, 3]


def test_equal_points_are_all_chosen_once():
    assert k_center(np.zeros((3, 2)), np.zeros((1, 2)), 5, first=0) == [0, 1, 2]


def test_the_most_uncertain_cases_come_first_and_an_empty_prediction_before_all():
    candidates = [case("a", 0.1, 0), case("b", float("inf"), 0), case("c", 0.3, 0)]
    chosen = choose(candidates, [], 2, strategy="uncertainty", seed=0)
    assert names(chosen) == ["b", "c"]


def test_diverse_cases_are_far_from_the_labelled_ones():
    candidates = [case("near", 0.9, 0.1), case("middle", 0.5, 5), case("far", 0.1, 10)]
    chosen = choose(candidates, [case("labelled", 0.0, 0)], 2, strategy="diverse", seed=0)
    assert names(chosen) == ["far", "middle"]


def test_combined_cases_differ_and_are_among_the_four_most_uncertain_for_each():
    """With one case to choose the pool has four; the farthest case of all is not in it."""
    candidates = [case(str(position), 1 - position / 10, position) for position in range(6)]
    chosen = choose(candidates, [case("labelled", 0.0, 0)], 1, strategy="combined", seed=0)
    assert names(chosen) == ["3"]


def test_random_cases_follow_from_the_seed():
    candidates = [case(str(number), 0.0, 0) for number in range(20)]
    draws = [names(choose(candidates, [], 3, strategy="random", seed=seed)) for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


def test_a_small_class_counts_as_much_as_a_large_one():
    """Volumes by class: both columns are standardised, and halves of the squared distance."""
    cases = [
        Candidate("a", 0, (10, 10_000), np.zeros(1, np.float32)),
        Candidate("b", 0, (20, 10_000), np.zeros(1, np.float32)),
        Candidate("c", 0, (10, 20_000), np.zeros(1, np.float32)),
    ]
    first, second, third = points(cases)
    small = np.linalg.norm(first - second)
    large = np.linalg.norm(first - third)
    assert small == pytest.approx(large)


def test_the_best_slice_shows_all_classes_before_it_is_uncertain():
    labels = np.zeros((4, 2, 2), np.uint8)
    labels[1, 0] = [1, 2]
    labels[2, 0] = [1, 2]
    labels[3, 0, 0] = 1
    uncertainty = np.zeros((4, 2, 2), np.float32)
    uncertainty[:, 0, 0] = [0.9, 0.1, 0.2, 0.8]
    assert best_slice(labels, uncertainty, 0) == 2
    assert best_slice(np.zeros_like(labels), uncertainty, 0) == 0


@pytest.fixture
def predictions(tmp_path) -> Path:
    """Predictions of three scans in LAS by a U-Net with drawn weights, with entropy maps."""
    plan = threshold.plan(2)
    torch.manual_seed(0)
    net = build("unet", 1, 2, {"egm": "none"})
    settings = {"model": "unet", "patch_size": [32, 32]}
    model = tmp_path / "c.pth"
    threshold.write_checkpoint(model, threshold.info_of(plan), net, settings, plan)
    for seed, name in enumerate("abc"):
        array = np.random.default_rng(seed).integers(0, 500, SHAPE).astype(np.int16)
        write_scan(
            tmp_path / "in" / f"{name}.nii.gz", array, (1, 1, 3), (5, 6, 7), ORIENTATIONS["LAS"]
        )
    words = ["--checkpoint", model, "--input", tmp_path / "in", "--output", tmp_path / "out"]
    assert predict([*map(str, words), "--device", "cpu", "--uncertainty", "entropy"]) == 0
    return tmp_path / "out"


def test_the_folder_of_a_suggestion_has_image_labels_and_map(tmp_path, predictions):
    output = tmp_path / "suggestions"
    words = [str(predictions), "--output", str(output), "--count", "2", "--labelled", "b"]
    suggest([*words, "--two_slices"])
    content = json.loads((output / "suggest.json").read_text(encoding="utf-8"))
    chosen = [one["name"] for one in content["cases"]]
    assert sorted(chosen) == ["a", "c"]
    with open(output / "suggest.csv", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["case"] for row in rows] == chosen
    source = nibabel.load(tmp_path / "in" / "a.nii.gz")
    for file, original in (
        ("image", tmp_path / "in" / "a.nii.gz"),
        ("labels", predictions / "a.nii.gz"),
        ("uncertainty_entropy", predictions / "a_uncertainty_entropy.nii.gz"),
    ):
        written = nibabel.load(output / "a" / f"{file}.nii.gz")
        assert np.array_equal(written.get_fdata(), nibabel.load(original).get_fdata())
        np.testing.assert_allclose(written.affine, source.affine, atol=1e-5)


def test_itk_lays_every_file_of_a_suggestion_onto_the_scan(tmp_path, predictions):
    """3D Slicer and ITK-SNAP read NIfTI with ITK."""
    suggest([str(predictions), "--output", str(tmp_path / "suggestions"), "--two_slices"])
    scan = sitk.ReadImage(str(tmp_path / "in" / "a.nii.gz"))
    files = sorted((tmp_path / "suggestions" / "a").glob("*.nii.gz"))
    assert len(files) == 4
    for file in files:
        image = sitk.ReadImage(str(file))
        assert image.GetSize() == scan.GetSize()
        for position in ((0, 0, 0), (13, 11, 9)):
            expected = scan.TransformIndexToPhysicalPoint(position)
            found = image.TransformIndexToPhysicalPoint(position)
            np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_two_slices_are_axial_and_coronal_and_marked(tmp_path, predictions):
    result = fewlabels.suggest(
        predictions, tmp_path / "suggestions", count=1, two_slices=True, progress=False
    )
    (suggestion,) = result.cases
    (first, axial), (second, coronal) = suggestion.slices
    assert (first, second) == (2, 1)
    path = tmp_path / "suggestions" / suggestion.name / "slices.nii.gz"
    marks = np.asarray(nibabel.load(path).dataobj)
    assert (marks[:, coronal] == 2).all()
    assert set(np.unique(marks[:, :, axial])) == {1, 2}
    assert np.count_nonzero(marks) == 14 * 12 + 14 * 10 - 14


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_labelled_cases_may_be_named_in_a_file(tmp_path, predictions, encoding):
    (tmp_path / "train.list").write_text("a\nc\n", encoding=encoding)
    result = fewlabels.suggest(
        predictions,
        tmp_path / "suggestions",
        count=3,
        labelled=[str(tmp_path / "train.list")],
        progress=False,
    )
    assert names(result.cases) == ["b"]


def test_a_list_in_another_encoding_is_named(tmp_path, predictions):
    path = tmp_path / "train.list"
    path.write_bytes("é\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"train.list: not a readable text file .* as UTF-8"):
        fewlabels.suggest(predictions, tmp_path / "s", labelled=[str(path)], progress=False)


@pytest.mark.parametrize("about", [[None], {"voxels": "3"}, {}])
def test_a_damaged_record_of_a_class_is_named(tmp_path, predictions, about):
    path = Path(predictions) / "predict.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["cases"]["a"]["classes"] = {"liver": about}
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(UserError, match=r"predict.json: not a record of predictions"):
        fewlabels.suggest(predictions, tmp_path / "suggestions", progress=False)


@pytest.mark.parametrize("words, message", [
    ((), "name a folder of predictions"),
    (("in",), "no predict.json in it"),
    (("out", "--count", "0"), "--count 0: suggest at least 1 case"),
    (("out", "--labelled", "x"), "--labelled x: no such case"),
    (("out", "--labelled", "a", "b", "c"), "all cases are labelled"),
    (("out", "--kind", "mirror"), "a has no uncertainty map; predict it with --uncertainty mirror"),
])  # fmt: skip
def test_wrong_calls_are_one_line(tmp_path, predictions, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        suggest(words)


def test_a_scan_that_was_moved_is_named(tmp_path, predictions):
    (tmp_path / "in").rename(tmp_path / "elsewhere")
    with pytest.raises(
        UserError, match=r"is missing; move the scan back, or predict . again from its new"
    ):
        fewlabels.suggest(predictions, tmp_path / "suggestions", progress=False)


def test_suggestions_of_an_earlier_call_are_kept(tmp_path, predictions):
    fewlabels.suggest(predictions, tmp_path / "suggestions", count=1, progress=False)
    with pytest.raises(UserError, match="has suggestions of an earlier call"):
        fewlabels.suggest(predictions, tmp_path / "suggestions", count=1, progress=False)
