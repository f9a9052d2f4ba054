"""Uncertainty maps: their values by hand, their files, and the ranking of cases."""

import json
import math
from pathlib import Path

import nibabel
import numpy as np
import pytest
import threshold
import torch
from raw_scans import ORIENTATIONS, write_scan
from scripts import predict, score
from torch import nn

import fewlabels
from commands.predict_memory import needed_bytes, read_header
from commands.predict_model import read_model
from commands.predict_settings import PredictSettings
from commands.predict_uncertainty import Uncertainty, entropy, rankings, with_border
from datasets.prepare.prepared_files import RawCase
from evaluation.features import MeanFeature
from evaluation.passes import ExtraMaps, batch_maps, class_variance
from networks.registry import build
from scans.reading import read_scan
from utils.errors import UserError

SHAPE, PATCH = (14, 12, 10), (8, 8, 6)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    threshold.register(monkeypatch)


class LeftHalf(nn.Module):
    """Logit 0 and, of class 1, the image times the column's number: mirrored columns differ."""

    def forward(self, x):
        columns = torch.arange(x.shape[-1], dtype=x.dtype)
        return torch.cat([torch.zeros_like(x), x * columns], 1)


class Dropping(nn.Module):
    """The logit of class 1 is a feature that dropout acts on."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Dropout(0.5)

    def forward(self, x):
        return torch.cat([torch.zeros_like(x), self.layer(x)], 1)


def run(checkpoints, source: Path, output: Path, *flags) -> int:
    paths = [str(path) for path in checkpoints]
    words = ["--checkpoint", *paths, "--input", str(source), "--output", str(output)]
    return predict([*words, "--device", "cpu", "--amp", "off", *map(str, flags)])


def own(path: Path, level=0.0) -> Path:
    plan = threshold.plan()
    return threshold.checkpoint(path, threshold.info_of(plan), PATCH, plan, level=level)


def noise(seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 500, SHAPE).astype(np.int16)


def trained_unet(path: Path) -> Path:
    """A plain U-Net for slices of 32 x 32, with weights that were drawn."""
    plan = threshold.plan(2)
    torch.manual_seed(0)
    net = build("unet", 1, 2, {"egm": "none"})
    settings = {"model": "unet", "patch_size": [32, 32]}
    threshold.write_checkpoint(path, threshold.info_of(plan), net, settings, plan)
    return path


def record(output: Path) -> dict:
    return json.loads((output / "predict.json").read_text(encoding="utf-8"))


def test_the_entropy_of_two_equal_classes_is_ln_2_and_of_a_certain_one_0():
    probabilities = torch.tensor([[0.5, 1.0, 0.25], [0.5, 0.0, 0.75]])
    expected = [math.log(2), 0.0, -0.25 * math.log(0.25) - 0.75 * math.log(0.75)]
    assert entropy(probabilities).tolist() == pytest.approx(expected, abs=1e-7)


def test_the_variance_is_over_passes_and_its_mean_over_classes():
    """Class 0 has 0.2 and 0.6, so its variance is 0.2 squared; class 1 has the same."""
    passes = torch.tensor([[[[0.2], [0.8]]], [[[0.6], [0.4]]]]).reshape(2, 1, 2, 1)
    assert class_variance(passes).item() == pytest.approx(0.04)


def test_the_mirror_map_is_the_variance_over_the_two_views_of_each_column():
    """Four flips of one row with two columns: flips of the row change nothing."""
    image = torch.tensor([1.0, 1.0]).view(1, 1, 1, 2)
    maps = batch_maps(LeftHalf(), image, False, amp=None, extra=ExtraMaps(mirror=True), number=0)
    first = torch.sigmoid(torch.tensor(0.0)).item()  # the column's number times 1
    second = torch.sigmoid(torch.tensor(1.0)).item()
    half_distance = (second - first) / 2
    assert maps[0, 1].flatten().tolist() == pytest.approx([first, second])
    assert maps[0, 2].flatten().tolist() == pytest.approx([half_distance**2] * 2)


def test_the_mean_of_all_passes_has_the_flips_and_the_passes_with_dropout():
    image = torch.randn(1, 1, 4, 4)
    extra = ExtraMaps(mirror=True, dropout_passes=3, mean=True)
    maps = batch_maps(Dropping().eval(), image, False, amp=None, extra=extra, number=0)
    assert maps.shape == (1, 2 + 1 + 1 + 2, 4, 4)
    plain = image.sigmoid()[0, 0]
    # the network acts on each pixel by itself, so all four flips agree
    dropped = 7 * maps[0, 5] - 4 * plain
    possible = torch.stack([(2 * image).sigmoid()[0, 0], torch.full((4, 4), 0.5)])
    shares = (dropped / 3 - possible[1]) / (possible[0] - possible[1])
    assert torch.allclose(3 * shares, (3 * shares).round(), atol=1e-3)


def test_passes_with_dropout_have_the_same_bits_again_and_keep_the_global_generator():
    net = Dropping().eval()
    image = torch.randn(2, 1, 4, 4)
    state = torch.get_rng_state()
    extra = ExtraMaps(dropout_passes=4)
    first = batch_maps(net, image, False, amp=None, extra=extra, number=0)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(5)
    again = batch_maps(net, image, False, amp=None, extra=extra, number=0)
    other = batch_maps(net, image, False, amp=None, extra=extra, number=1)
    assert torch.equal(first, again)
    assert first[:, 2].max() > 0
    assert not torch.equal(first, other)
    assert not net.layer.training


def test_the_border_of_a_voxel_is_its_six_neighbours():
    mask = np.zeros((3, 3, 3), bool)
    mask[1, 1, 1] = True
    assert with_border(mask).sum() == 7
    corner = np.zeros((2, 2), bool)
    corner[0, 0] = True
    assert with_border(corner).tolist() == [[True, True], [True, False]]


def test_cases_are_ranked_by_the_foreground_and_one_without_comes_first():
    means = {"a": 0.1, "b": 0.3, "c": None, "d": 0.3}
    records = {}
    for name, mean in means.items():
        maps = {"entropy": {"mean": 0.0, "foreground_mean": mean}}
        records[name] = {"uncertainty": {"passes": 0, "maps": maps}}
    assert rankings(records) == {"entropy": ["c", "b", "d", "a"]}


def test_the_mean_feature_is_that_of_images_and_positions():
    net = nn.Sequential(nn.Identity())
    net.deepest = "0"
    feature = MeanFeature(net)
    with feature.collected(enabled=True):
        net(torch.tensor([[[1.0, 3.0], [0.0, 0.0]]]))
        net(torch.tensor([[[5.0, 5.0], [3.0, 3.0]], [[3.0, 3.0], [0.0, 0.0]]]))
    net(torch.ones(1, 2, 2))
    assert feature.mean().tolist() == pytest.approx([(2 + 5 + 3) / 3, (0 + 3 + 0) / 3])


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nrrd"])
def test_maps_lie_on_the_scans_own_grid_in_its_format(tmp_path, name):
    """Two networks with other thresholds: where only one sees class 1, p is 1/2 in the mean."""
    array = noise()
    write_scan(tmp_path / "in" / name, array, (1, 2, 3), (5, 6, 7), ORIENTATIONS["LAS"])
    models = [own(tmp_path / "low.pth", -0.5), own(tmp_path / "high.pth", 0.5)]
    flags = ("--uncertainty", "entropy", "ensemble")
    assert run(models, tmp_path / "in", tmp_path / "out", *flags) == 0
    scan = read_scan(tmp_path / "in" / name)
    z_score = (array - array.astype(float).mean()) / array.astype(float).std()
    between = (z_score > -0.5) & (z_score < 0.5)
    for kind, value in (("entropy", math.log(2)), ("ensemble", 0.25)):
        written = read_scan(tmp_path / "out" / name.replace("a.", f"a_uncertainty_{kind}."))
        assert written.array.dtype == np.float32
        np.testing.assert_allclose(written.geometry.affine, scan.geometry.affine, atol=1e-5)
        np.testing.assert_allclose(written.array, value * between, atol=1e-4)


def test_predict_json_has_means_and_a_ranking(tmp_path):
    arrays = {"a": noise(0), "b": noise(1)}
    arrays["b"] = np.where(arrays["b"] > 250, 500, 0).astype(np.int16)  # nothing in between
    for name, array in arrays.items():
        write_scan(tmp_path / "in" / f"{name}.nii.gz", array, (1, 2, 3))
    models = [own(tmp_path / "low.pth", -0.5), own(tmp_path / "high.pth", 0.5)]
    assert run(models, tmp_path / "in", tmp_path / "out", "--uncertainty", "ensemble") == 0
    content = record(tmp_path / "out")
    assert content["ranking"] == {"ensemble": ["a", "b"]}
    about = content["cases"]["a"]["uncertainty"]["maps"]["ensemble"]
    written = np.asarray(nibabel.load(tmp_path / "out" / about["file"]).dataobj)
    labels = np.asarray(nibabel.load(tmp_path / "out" / "a.nii.gz").dataobj)
    assert about["mean"] == pytest.approx(written.mean(), rel=1e-5)
    assert about["foreground_mean"] == pytest.approx(written[with_border(labels > 0)].mean(), 1e-5)
    assert content["cases"]["b"]["uncertainty"]["maps"]["ensemble"]["mean"] == 0


def test_labels_are_the_same_with_and_without_maps(tmp_path):
    model = trained_unet(tmp_path / "c.pth")
    write_scan(tmp_path / "in" / "a.nii.gz", noise(), (1, 1, 3))
    kinds = ("entropy", "mirror", "dropout")
    assert run([model], tmp_path / "in", tmp_path / "plain") == 0
    assert run([model], tmp_path / "in", tmp_path / "maps", "--uncertainty", *kinds) == 0
    plain, labels = (nibabel.load(tmp_path / name / "a.nii.gz") for name in ("plain", "maps"))
    assert np.array_equal(np.asarray(plain.dataobj), np.asarray(labels.dataobj))
    assert np.load(tmp_path / "maps" / "a_features.npy").shape == (256,)


def test_a_second_call_gives_the_same_bits(tmp_path):
    model = trained_unet(tmp_path / "c.pth")
    write_scan(tmp_path / "in" / "a.nii.gz", noise(), (1, 1, 3))
    for name in ("first", "second"):
        flags = ("--uncertainty", "dropout", "--passes", 2)
        assert run([model], tmp_path / "in", tmp_path / name, *flags) == 0
    first, second = (record(tmp_path / name)["cases"]["a"] for name in ("first", "second"))
    assert first["uncertainty"]["maps"] == second["uncertainty"]["maps"]
    assert first["uncertainty"]["maps"]["dropout"]["mean"] > 0


def test_other_kinds_are_added_to_finished_predictions_and_then_kept(tmp_path, capsys):
    model = own(tmp_path / "c.pth")
    write_scan(tmp_path / "in" / "a.nii.gz", noise(), (1, 2, 3))
    assert run([model], tmp_path / "in", tmp_path / "out") == 0
    for line in ("1 predicted, 0 kept", "0 predicted, 1 kept"):
        capsys.readouterr()
        assert run([model], tmp_path / "in", tmp_path / "out", "--uncertainty", "entropy") == 0
        assert line in capsys.readouterr().out
    (tmp_path / "out" / "a_uncertainty_entropy.nii.gz").write_bytes(b"damaged")
    assert run([model], tmp_path / "in", tmp_path / "out", "--uncertainty", "entropy") == 0
    assert "1 predicted, 0 kept" in capsys.readouterr().out
    assert run([model], tmp_path / "in", tmp_path / "out", "--overwrite") == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "a.nii.gz",
        "predict.json",
    ]


def test_scores_omit_uncertainty_maps(tmp_path):
    model = own(tmp_path / "c.pth")
    write_scan(tmp_path / "in" / "a.nii.gz", noise(), (1, 2, 3))
    assert run([model], tmp_path / "in", tmp_path / "out", "--uncertainty", "entropy") == 0
    labels = (noise() > noise().mean()).astype(np.uint8)
    write_scan(tmp_path / "labels" / "a.nii.gz", labels, (1, 2, 3))
    words = ["--predictions", str(tmp_path / "out"), "--labels", str(tmp_path / "labels")]
    assert score([*words, "--output", str(tmp_path / "scores")]) == 0
    cases = (tmp_path / "scores" / "metrics.csv").read_text(encoding="utf-8")
    assert "uncertainty" not in cases and "1.0" in cases


def test_a_picture_has_its_map_in_a_nifti_file(tmp_path):
    import SimpleITK as sitk

    plan = threshold.plan(2)
    model = threshold.checkpoint(tmp_path / "c.pth", threshold.info_of(plan), (12, 14), plan)
    (tmp_path / "in").mkdir()
    picture = noise()[:, :, 0].T.astype(np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(picture), str(tmp_path / "in" / "a.png"))
    assert run([model], tmp_path / "in", tmp_path / "out", "--uncertainty", "entropy") == 0
    written = nibabel.load(tmp_path / "out" / "a_uncertainty_entropy.nii.gz")
    assert written.shape == (14, 12, 1)


@pytest.mark.parametrize("kind, message", [
    ("ensemble", "is the variance over several checkpoints"),
    ("dropout", "has no dropout; use another kind"),
])  # fmt: skip
def test_kinds_that_the_networks_do_not_have_are_refused(tmp_path, kind, message):
    write_scan(tmp_path / "in" / "a.nii.gz", noise(), (1, 2, 3))
    with pytest.raises(UserError, match=message):
        run([own(tmp_path / "c.pth")], tmp_path / "in", tmp_path / "out", "--uncertainty", kind)


def test_one_pass_with_dropout_has_no_variance():
    with pytest.raises(UserError, match="--passes 1: the variance over passes needs at least 2"):
        Uncertainty(("dropout",), passes=1).check()


def test_the_door_returns_the_maps_that_the_script_writes(tmp_path):
    model = trained_unet(tmp_path / "c.pth")
    scan = write_scan(tmp_path / "in" / "a.nii.gz", noise(), (1, 1, 3))
    kinds = ("entropy", "mirror")
    result = fewlabels.predict(
        model,
        tmp_path / "in",
        tmp_path / "out",
        device="cpu",
        amp="off",
        uncertainty=kinds,
        progress=False,
    )
    assert result.ranking == {"entropy": ["a"], "mirror": ["a"]}
    networks = fewlabels.load_model(model, "cpu", amp="off")
    prediction = networks.predict(noise(), affine=nibabel.load(scan).affine, uncertainty=kinds)
    for kind in kinds:
        written = nibabel.load(tmp_path / "out" / f"a_uncertainty_{kind}.nii.gz")
        assert np.array_equal(np.asarray(written.dataobj), prediction.uncertainty[kind])
    assert networks.predict(noise(), spacing=(1, 1, 3)).uncertainty == {}
    single = networks.predict(noise()[:, :, 0], spacing=(1, 1), uncertainty=kinds)
    assert single.uncertainty["mirror"].shape == SHAPE[:2]


def test_the_memory_estimate_counts_the_maps(tmp_path):
    """Two maps of float32, and the three masks that find the foreground with its border."""
    write_scan(tmp_path / "a.nii.gz", np.zeros((200, 200, 200), np.int16), (1, 2, 3))
    settings = PredictSettings(
        checkpoint=(own(tmp_path / "a.pth"), own(tmp_path / "b.pth")),
        input=tmp_path,
        output=tmp_path / "out",
    )
    plain = read_model(settings, torch.device("cpu"))
    header = read_header(RawCase("a", (tmp_path / "a.nii.gz",), part="predict"))
    assert header is not None
    with_maps = plain.with_uncertainty(("entropy", "ensemble"), 8)
    ahead = needed_bytes(with_maps, header, 1) - needed_bytes(plain, header, 1)
    assert ahead >= (2 * 4 + 3 + 3 * 4) * 200**3
