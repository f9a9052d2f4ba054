"""From a checkpoint to figures: the test script, both conventions, and published weights at their
documented place.
"""

import csv
import json
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from helpers import ACDC
from reference import filled_state_dict
from scipy import ndimage
from started import run_script

import evaluation.validation
from dataloaders.cases import read_cases
from dataloaders.phantom.write import write_acdc_phantom
from evaluation.metrics import class_overlaps
from evaluation.results import columns, metrics_csv, summarise, table
from evaluation.scores import score_case
from evaluation.slices import SlicePredictor, zoom_linear
from evaluation.sliding_window import VolumePredictor
from evaluation.validation import validate
from networks.net_factory_ega import net_factory
from networks.published_weights import import_state_dict
from utils.case import Case
from utils.label_maps import most_probable

SCRIPT = Path(__file__).parents[1] / "code" / "test_ACDC.py"
NAMES = ("background", "right ventricle", "myocardium", "left ventricle")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("phantom")
    write_acdc_phantom(root, train=1, val=1, test=1, size=64, slices=(5, 5))
    return root


@pytest.fixture(scope="module")
def tested(root, tmp_path_factory):
    """A published-format state dict at the documented place, and what the test script said and
    wrote.
    """
    output = tmp_path_factory.mktemp("model")
    place = output / "BCP" / "ACDC_BCP_3_labeled" / "self_train" / "unet_best_model.pth"
    place.parent.mkdir(parents=True)
    torch.save(filled_state_dict("unet"), place)
    result = run_script(
        SCRIPT, "--labelnum", "3", "--root_path", root, "--output_root", output, "--device", "cpu"
    )
    assert result.returncode == 0, result.stderr
    return result.stdout, place.parents[1] / "test" / "self_train_best_test"


def plain_prediction(net, image, size):
    """BCP's ACDC test, slice by slice."""
    prediction = np.zeros_like(image, dtype=np.uint8)
    for k, piece in enumerate(image):
        height, width = piece.shape
        x = ndimage.zoom(piece, (size / height, size / width), order=0)
        with torch.no_grad():
            labels = (
                net(torch.from_numpy(x)[None, None].float()).argmax(1)[0].numpy().astype(np.uint8)
            )
        prediction[k] = ndimage.zoom(labels, (height / size, width / size), order=0)
    return prediction


def test_published_weights_give_the_published_predictions(root, tested):
    """At 256x256, batches of slices through our network against one slice at a time by the formula."""
    net = net_factory("unet").eval()
    import_state_dict(net, filled_state_dict("unet"))
    for case in read_cases(ACDC, root, "test"):
        file = nibabel.load(tested[1] / f"{case.name}_pred.nii.gz")
        written = np.asarray(file.dataobj).T
        differing = (written != plain_prediction(net, case.image[0], 256)).mean()
        assert differing < 1e-4  # float32 rounding may turn a pixel whose two best classes tie
        assert len(np.unique(written)) > 1
        np.testing.assert_allclose(file.header.get_zooms(), case.spacing_mm[::-1], rtol=1e-6)


def test_what_the_test_script_writes(root, tested):
    said, folder = tested
    assert "published state dict" in said and "right ventricle" in said and "penalised" in said
    with open(folder / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == columns() and len(rows) == 2 * 3
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    assert {"as_published", "honest", "checkpoint", "command", "versions", "git_commit"} <= set(
        summary
    )
    mean = np.mean(
        [np.mean([float(r["dice"]) for r in rows if r["class"] == name]) for name in NAMES[1:]]
    )
    assert summary["as_published"]["mean"]["dice"] == pytest.approx(mean, abs=1e-6)
    assert set(summary["as_published"]["classes"]) == set(NAMES[1:])
    assert summary["honest"]["millimetres"]["mean"]["hd95_mm"] > 0
    assert (
        len(summary["checkpoint"]["sha256"]) == 64
        and "published" in summary["checkpoint"]["selection"]
    )


def cubes():
    """A cube of class 1 predicted two voxels off; class 2 not found; class 3 nowhere and rightly
    not found.
    """
    label, prediction = np.zeros((4, 10, 10), np.uint8), np.zeros((4, 10, 10), np.uint8)
    label[1:3, 2:5, 2:5] = 1
    prediction[1:3, 2:5, 4:7] = 1
    label[:, 8:, 8:] = 2
    return Case("cube", label.astype(np.float32), label, (10.0, 1.0, 2.0)), prediction


def test_both_conventions_by_hand():
    case, prediction = cubes()
    one, two, three = score_case(case, prediction, NAMES)
    assert one.published.dice == one.penalised.dice == pytest.approx(2 * 6 / 36)
    assert one.published.hd95 == 2 and one.penalised_mm.hd95 == 4
    assert (two.published.dice, two.published.hd95, two.published.asd) == (0, 0, 0)
    assert two.penalised.hd95 == pytest.approx(np.sqrt(4**2 + 10**2 + 10**2))
    assert two.penalised_mm.asd == pytest.approx(np.sqrt(40**2 + 10**2 + 20**2))
    assert three.published.dice == 0 and (three.penalised.dice, three.penalised.hd95) == (1, 0)


def test_summary_counts_what_was_missed(tmp_path):
    case, prediction = cubes()
    scores = score_case(case, prediction, NAMES)
    summary = summarise(scores)
    assert summary["honest"]["empty_predictions"] == 1 and summary["honest"]["absent_in_truth"] == 1
    assert summary["as_published"]["mean"]["hd95_voxel"] < summary["honest"]["mean"]["hd95_voxel"]
    assert "empty predictions: 1" in table(summary)
    (tmp_path / "metrics.csv").write_text(metrics_csv(scores), encoding="utf-8", newline="")
    with open(tmp_path / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["empty_prediction"] for row in rows] == ["0", "1", "1"]
    assert [float(row["hd95_voxel"]) for row in rows] == [2, 0, 0] and float(
        rows[0]["hd95_mm"]
    ) == 4


def test_millimetres_only_where_every_spacing_is_known(tmp_path):
    case, prediction = cubes()
    scores = score_case(case, prediction, NAMES) + score_case(
        replace(case, spacing_mm=None), prediction, NAMES
    )
    assert summarise(scores)["honest"]["millimetres"] is None
    (tmp_path / "metrics.csv").write_text(metrics_csv(scores), encoding="utf-8", newline="")
    with open(tmp_path / "metrics.csv") as file:
        assert [row["hd95_mm"] for row in csv.DictReader(file)][3:] == ["", "", ""]


def test_validation_score_is_the_mean_dice_of_the_classes():
    case, prediction = cubes()
    result = validate(
        torch.nn.Identity(),
        lambda: False,
        [case],
        lambda net, image: torch.from_numpy(prediction),
        NAMES,
    )
    assert result.score == pytest.approx((2 * 6 / 36) / 3)
    assert (
        result.scalars["dice_myocardium"] == 0 and result.scalars["hd95_voxel_right_ventricle"] == 2
    )
    assert (
        validate(
            torch.nn.Identity(),
            lambda: True,
            [case],
            lambda net, image: torch.from_numpy(prediction),
            NAMES,
        )
        is None
    )


def several_cases():
    """Random label maps of four classes, one class missing in the truth of some, in the prediction
    of others, in both of one.
    """
    rng = np.random.default_rng(0)
    cases, predictions = [], {}
    for number in range(5):
        truth, prediction = (rng.integers(0, 4, (3, 9, 8)).astype(np.uint8) for _ in range(2))
        truth[truth == number] = 0
        prediction[prediction == (4, 2, 3, 3, 1)[number]] = 0
        cases.append(Case(str(number), np.full((1, 3, 9, 8), number, np.float32), truth))
        predictions[number] = torch.from_numpy(prediction)
    return cases, lambda net, image: predictions[int(image.flat[0])]


def test_the_dice_alone_is_the_same_dice():
    cases, classes = several_cases()
    whole, alone = (
        validate(torch.nn.Identity(), lambda: False, cases, classes, NAMES, distances)
        for distances in (True, False)
    )
    assert alone.score == whole.score and alone.scalars == {
        k: v for k, v in whole.scalars.items() if "voxel" not in k
    }
    assert set(whole.scalars) - set(alone.scalars) == {
        f"{kind}_voxel_{n.replace(' ', '_')}"
        for kind in ("hd95", "asd", "hd95_max", "assd", "nsd")
        for n in NAMES[1:]
    }


@pytest.mark.parametrize("distances", [True, False])
def test_processes_share_the_cases_and_get_the_whole_result(monkeypatch, distances):
    cases, classes = several_cases()
    given = torch.nn.Identity(), lambda: False, cases, classes, NAMES, distances
    expected, parts = validate(*given), []
    monkeypatch.setattr(evaluation.validation, "world", lambda: 3)
    for number in range(3):
        monkeypatch.setattr(evaluation.validation, "rank", lambda number=number: number)
        monkeypatch.setattr(
            evaluation.validation, "all_parts", lambda part: parts.append(part) or [None]
        )
        assert validate(*given) is None  # as where another process was told to stop
    assert [len(part) for part in parts] == [2, 2, 1]
    monkeypatch.setattr(evaluation.validation, "all_parts", lambda part: parts)
    assert validate(*given) == expected


def test_a_validation_never_waits_for_the_device():
    """On `meta` tensors have no values, so whatever reads one fails."""
    meta = torch.device("meta")
    slices = SlicePredictor((32, 48), meta, batch=3)
    volumes = VolumePredictor((16, 16, 16), (8, 8, 8), meta)
    nets = net_factory("unet", egm="none"), torch.nn.Conv3d(1, 3, 1)
    for net, predict, shape in zip(
        nets, (slices, volumes), ((1, 5, 40, 30), (1, 20, 16, 30)), strict=True
    ):
        found = predict.classes(net.to(meta).eval(), np.zeros(shape, np.float32))
        assert found.shape == shape[1:] and found.dtype == torch.uint8 and found.is_meta
        assert class_overlaps(
            found, torch.zeros(shape[1:], dtype=torch.uint8, device=meta), 4
        ).shape == (3, 3)


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_the_most_probable_class_is_the_first_of_the_largest(classes):
    scores = torch.randint(
        0, 4, (classes, 6, 7, 8), generator=torch.Generator().manual_seed(0)
    ).float()  # ties are many
    for laid_out in (scores, scores.movedim(0, -1).contiguous().movedim(-1, 0)):
        assert np.array_equal(most_probable(laid_out), scores.numpy().argmax(0))


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_batches_of_slices_change_nothing(batch):
    torch.manual_seed(0)
    net = net_factory("unet", egm="none").eval()
    image = np.random.default_rng(0).random((5, 40, 30), np.float32)
    predicted = SlicePredictor((32, 48), torch.device("cpu"), batch)(net, image[None])
    expected = np.stack(
        [
            SlicePredictor((32, 48), torch.device("cpu"), 1)(net, piece[None, None])[0]
            for piece in image
        ]
    )
    assert predicted.shape == image.shape and (predicted != expected).mean() < 1e-3


@pytest.mark.parametrize("size", [(13, 11), (7, 5), (4, 9), (40, 1)])
def test_probabilities_are_resized_as_scipy_interpolates_linearly(size):
    array = np.random.default_rng(0).random((2, 3, 7, 5), np.float32)
    factors = (1, 1, size[0] / 7, size[1] / 5)
    expected = ndimage.zoom(array.astype(np.float64), factors, order=1)
    found = zoom_linear(torch.as_tensor(array), size).numpy()
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-6)
    if size == (7, 5):
        assert np.array_equal(found, array)


def test_pixels_without_a_source_are_background():
    """Nearest neighbour, as scipy computes it, gives some sizes a last column without a source."""
    torch.manual_seed(0)
    net = net_factory("unet", egm="none").eval()
    image = np.random.default_rng(0).random((1, 1, 40, 45), np.float32)
    predictor = SlicePredictor((256, 256), torch.device("cpu"))
    (probabilities,) = predictor.slabs(net, image)
    torch.testing.assert_close(probabilities.sum(0), torch.ones(1, 40, 45))
    assert (probabilities[0, 0, :, 44] == 1).all()


def test_linear_interpolation_moves_the_outline_between_the_pixels_of_the_network():
    """Two columns with foreground probabilities 0.8 and 0 become nine, from 0.8 down in steps of 0.1.

    The first three are above 0.5. By nearest neighbour, the first four or five are foreground.
    """

    class Halves(torch.nn.Module):
        def forward(self, images):
            foreground = torch.tensor([0.8, 0.0]).expand(len(images), 1, 2, 2)
            return torch.cat([1 - foreground, foreground], 1).clamp(1e-9).log()

    image = np.zeros((1, 3, 2, 9), np.float32)
    predictor = SlicePredictor((2, 2), torch.device("cpu"), batch=2, interpolation="linear")
    classes = predictor(Halves(), image)
    assert np.array_equal(classes, np.broadcast_to([1, 1, 1, 0, 0, 0, 0, 0, 0], (3, 2, 9)))
    probabilities = torch.cat(list(predictor.slabs(Halves(), image)), 1)
    expected = torch.linspace(0.8, 0, 9).expand(3, 2, 9)
    torch.testing.assert_close(probabilities[1], expected, rtol=0, atol=1e-6)
    nearest = SlicePredictor((2, 2), torch.device("cpu"))(Halves(), image)
    assert nearest[0, 0].sum() in (4, 5)
