"""Raw scans through predict.py and back onto their own grids."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import threshold
import torch
from helpers import KITS19, LA, PANCREAS
from raw_scans import ORIENTATIONS, write_scan
from scipy.ndimage import map_coordinates
from scipy.special import expit
from scripts import predict

from commands.predict_back import way_back
from dataloaders.cases import turned
from datasets.prepare.own_scans import OwnPreparation
from datasets.prepare.prepared_files import RawCase
from datasets.prepare.published import make_preparation
from datasets.registry import all_datasets
from evaluation.slices import SlicePredictor
from evaluation.sliding_window import VolumePredictor
from networks.registry import build
from scans.geometry import to_canonical
from scans.reading import read_scan

CPU = torch.device("cpu")
SHAPE = (21, 18, 15)
PATCH = (8, 10, 6)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    threshold.register(monkeypatch)


def run(checkpoint, source: Path, output: Path, *flags) -> int:
    paths = [str(path) for path in (checkpoint if isinstance(checkpoint, list) else [checkpoint])]
    return predict(
        [
            "--checkpoint",
            *paths,
            "--input",
            str(source),
            "--output",
            str(output),
            "--device",
            "cpu",
            "--amp",
            "off",
            *map(str, flags),
        ]
    )


def own(path: Path, plan=None, patch=PATCH, **other) -> Path:
    plan = plan or threshold.plan()
    return threshold.checkpoint(path, threshold.info_of(plan), patch, plan, **other)


def mr(shape=SHAPE, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 500, shape).astype(np.int16)


def above_mean(array: np.ndarray) -> np.ndarray:
    """What a network sees above 0 after the z-score."""
    return array > array.astype(np.float64).mean()


def array_of(path: Path) -> np.ndarray:
    return np.asarray(nibabel.load(path).dataobj)


def record(output: Path, name: str = "predict.json") -> dict:
    return json.loads((output / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("letters", ORIENTATIONS)
@pytest.mark.parametrize("kind", ["own volumes", "own slices", "LA"])
def test_every_orientation_comes_back_voxel_by_voxel(tmp_path, letters, kind):
    array = mr()
    scan = write_scan(
        tmp_path / "in" / "scan.nii.gz", array, (1.5, 0.8, 2.5), (4, -30, 11), ORIENTATIONS[letters]
    )
    if kind == "own slices":
        axes, _ = to_canonical(read_scan(scan).geometry)
        # pictures as large as the network's input: nothing is zoomed
        model = own(tmp_path / "c.pth", threshold.plan(2), (SHAPE[axes[1]], SHAPE[axes[0]]))
    else:
        model = (
            own(tmp_path / "c.pth")
            if kind == "own volumes"
            else threshold.checkpoint(tmp_path / "c.pth", LA, PATCH)
        )
    assert run(model, tmp_path / "in", tmp_path / "out") == 0
    source, written = nibabel.load(scan), nibabel.load(tmp_path / "out" / "scan.nii.gz")
    found = np.asarray(written.dataobj)
    value = 255 if kind == "LA" else 1  # as the download's labels have it
    assert found.dtype == np.uint8 and np.array_equal(found, above_mean(array) * np.uint8(value))
    assert (
        np.array_equal(written.affine, source.affine)
        and "".join(nibabel.aff2axcodes(written.affine)) == letters
    )


@pytest.mark.parametrize("codes", [(1, 2), (0, 1), (4, 0), (0, 0)])
def test_a_nifti_header_survives(tmp_path, codes):
    """qform and sform, which may differ, their codes, and the sizes of voxels; not what the header
    says of intensities.
    """
    path, array = tmp_path / "in" / "scan.nii.gz", mr()
    path.parent.mkdir()
    image = nibabel.Nifti1Image(array, np.diag([-2.0, 3.0, 1.5, 1.0]))
    image.set_qform(np.diag([-2.0, 3.0, 1.5, 1.0]), codes[0])
    turned = np.array([[0, 3.0, 0, 5], [-2.0, 0, 0, 6], [0, 0, 1.5, 7], [0, 0, 0, 1]])
    image.set_sform(turned, codes[1])
    image.header["cal_max"] = 500
    image.header.set_slope_inter(2, -7)
    nibabel.save(image, path)
    assert run(own(tmp_path / "c.pth"), path, tmp_path / "out") == 0
    source, written = (
        nibabel.load(place / "scan.nii.gz").header for place in (path.parent, tmp_path / "out")
    )
    for key in (
        "pixdim",
        "qform_code",
        "sform_code",
        "quatern_b",
        "quatern_c",
        "quatern_d",
        "qoffset_x",
        "srow_x",
        "srow_y",
        "srow_z",
        "dim",
    ):
        assert np.array_equal(source[key], written[key]), key
    assert written["cal_max"] == 0 and written.get_data_dtype() == np.uint8
    assert np.array_equal(array_of(tmp_path / "out" / "scan.nii.gz"), above_mean(array))


@pytest.mark.parametrize(
    "dataset, variant, size, spacing",
    [
        ("KiTS19", None, (40, 30, 16), (3, 0.8, 0.8)),
        ("LiTS", None, (16, 40, 9), (0.8, 0.8, 3)),
        ("Pancreas", "coranet", None, (0.7, 0.7, 2)),
        ("Pancreas", "mcnet", None, (0.7, 0.7, 2)),
        ("own", None, None, (0.7, 0.9, 3)),
    ],
)
@pytest.mark.parametrize("letters", ["RAS", "IPL"])
def test_probabilities_go_back_linearly(tmp_path, dataset, variant, size, spacing, letters):
    """Against scipy's linear interpolation at places that the affines alone give."""
    direction = ORIENTATIONS[letters]
    scan = write_scan(tmp_path / "scan.nii.gz", mr((20, 26, 12)), spacing, (4, -30, 11), direction)
    plan = threshold.plan(spacing=(1.3, None, 0.9))
    if dataset == "own":
        preparation = OwnPreparation(plan, ())
    else:
        kind = all_datasets()[dataset].preparation
        preparation = make_preparation(kind, "none", variant=variant, size=size)
    (output,) = preparation.prepare(RawCase("scan", (scan,), part="predict"), lambda line: None)
    info = threshold.info_of(plan) if dataset == "own" else all_datasets()[dataset].info
    shape = turned(info, output.image).shape
    probability = np.random.default_rng(1).random((2, *shape), dtype=np.float32)
    back = way_back(shape, output.attributes, 3, None)
    found = np.zeros((2, *back.shape), np.float32)
    for index, plane in back.planes(iter(torch.from_numpy(probability).unbind(1))):
        back.view(found)[:, index] = plane.numpy()
    places = (
        np.linalg.inv(output.attributes["affine"])
        @ nibabel.load(scan).affine
        @ np.stack([*np.indices((20, 26, 12)).reshape(3, -1), np.ones(6240)])
    )
    expected = [
        map_coordinates(one, places[:3], order=1, mode="nearest").reshape(20, 26, 12)
        for one in probability
    ]
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_a_published_2d_network_predicts_a_raw_scan_as_the_test_does(tmp_path):
    """ACDC: prepared, zoomed and zoomed back with the arithmetic of test_ACDC.py, to the voxel."""
    array = mr((30, 26, 4))
    scan = write_scan(tmp_path / "in" / "scan.nii.gz", array, (1.5, 1.25, 10))
    torch.manual_seed(0)
    net = build("unet", 1, 4, {"egm": "none"}).eval()
    path = tmp_path / "unet_best_model.pth"
    torch.save(net.state_dict(), path)
    assert (
        run(
            path,
            scan,
            tmp_path / "out",
            "--dataset",
            "ACDC",
            "--patch_size",
            32,
            32,
            "--accelerate",
            "off",
            "--interpolation",
            "nearest",
        )
        == 0
    )
    image = ((array - array.min()) / float(array.max() - array.min())).astype(np.float32).T
    expected = SlicePredictor((32, 32), CPU)(net, np.ascontiguousarray(image)[None])
    assert len(np.unique(expected)) > 1 and np.array_equal(
        array_of(tmp_path / "out" / "scan.nii.gz"), expected.T
    )


def test_modalities_and_label_values_with_gaps(tmp_path, capsys):
    """Two modalities, class k where the k-th is above its mean and the larger one; the values 0, 5,
    300 of the training labels.
    """
    plan = threshold.plan(values=(0, 5, 300), channels=("T1", "T2"))
    first, second = mr(seed=1), mr(seed=2)
    for name in ("a", "b"):
        write_scan(tmp_path / "in" / f"{name}_0000.nii.gz", first)
        write_scan(tmp_path / "in" / f"{name}_0001.nii.gz", second)
    write_scan(tmp_path / "in" / "c_0001.nii.gz", second)
    assert run(own(tmp_path / "c.pth", plan), tmp_path / "in", tmp_path / "out") == 2
    scores = [
        (array - array.astype(float).mean()) / array.astype(float).std()
        for array in (first, second)
    ]
    classes = np.argmax([np.zeros(SHAPE), *scores], 0)
    found = array_of(tmp_path / "out" / "b.nii.gz")
    assert found.dtype == np.uint16 and np.array_equal(found, np.array([0, 5, 300])[classes])
    assert (
        "not predicted: c: " in (said := capsys.readouterr()).err
        and "has channels [1], expected 0 to 1" in said.err
    )
    assert run(tmp_path / "c.pth", tmp_path / "in" / "a_0000.nii.gz", tmp_path / "one") == 0
    assert np.array_equal(array_of(tmp_path / "one" / "a.nii.gz"), found)


def test_several_checkpoints_are_averaged_and_probabilities_written(tmp_path):
    """Logits 0 and 1e4 (z - level): the mean of 0, 1 and 1 is 2 / 3 where z lies between the
    levels.
    """
    array = mr()
    scan = write_scan(tmp_path / "in" / "scan.nii.gz", array, direction=ORIENTATIONS["PSR"])
    models = [
        own(tmp_path / f"{k}.pth", level=level, patch=patch)
        for k, (level, patch) in enumerate([(0.0, PATCH), (-0.5, PATCH), (0.5, (16, 8, 8))])
    ]
    assert run(models, scan, tmp_path / "out", "--probabilities") == 0
    z = (array - array.astype(float).mean()) / array.astype(float).std()
    expected = np.mean([expit(threshold.SHARP * (z - level)) for level in (0, -0.5, 0.5)], 0)
    with np.load(tmp_path / "out" / "scan.npz") as file:
        probability = file["probabilities"]
    assert probability.shape == (2, *SHAPE) and probability.dtype == np.float32
    np.testing.assert_allclose(probability, [1 - expected, expected], atol=1e-3)
    assert np.array_equal(array_of(tmp_path / "out" / "scan.nii.gz"), expected > 0.5)
    classes = record(tmp_path / "out")["cases"]["scan"]["classes"]
    assert classes == {
        "organ 1": {
            "voxels": int((expected > 0.5).sum()),
            "ml": pytest.approx((expected > 0.5).sum() / 1000),
        }
    }


class Ramp(torch.nn.Module):
    """Probability 0.5 + 0.4 of class 1 in the first voxel of an axis and 0.5 - 0.4 in the last,
    whatever the image.
    """

    def __init__(self, axis) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, x):
        shape = [1] * x.ndim
        shape[self.axis] = -1
        share = (
            torch.linspace(0.9, 0.1, x.shape[self.axis]).view(shape).expand(len(x), 1, *x.shape[2:])
        )
        return torch.cat([1 - share, share], 1).log()


@pytest.mark.parametrize("axis", [2, 3, 4])
def test_mirroring_takes_what_is_odd_out_of_a_network(axis):
    """The mean of a ramp and its mirror image is 0.5 everywhere; without mirroring it is the ramp."""
    image = np.zeros((1, 6, 5, 4), np.float32)
    whole = VolumePredictor((6, 5, 4), (6, 5, 4), CPU, mirror=True).probability(Ramp(axis), image)
    assert torch.allclose(whole, torch.full_like(whole, 0.5))
    plain = VolumePredictor((6, 5, 4), (6, 5, 4), CPU).probability(Ramp(axis), image)[1]
    assert plain.max() == pytest.approx(0.9) and plain.min() == pytest.approx(0.1)
    if axis < 4:
        slices = torch.cat(
            list(SlicePredictor((5, 4), CPU, 4, mirror=True).slabs(Ramp(axis), image)), 1
        )
        assert slices.shape == (2, 6, 5, 4) and torch.allclose(slices, torch.full_like(slices, 0.5))


def test_memory_holds_no_more_planes_than_a_window_is_deep():
    image = np.zeros((1, 50, 12, 9), np.float32)
    slabs = list(VolumePredictor((8, 6, 6), (3, 6, 6), CPU, batch=5).slabs(Ramp(2), image))
    assert sum(slab.shape[1] for slab in slabs) == 50 and max(slab.shape[1] for slab in slabs) == 8


def test_the_largest_component_alone(tmp_path):
    array = np.zeros(SHAPE, np.int16)
    array[1:4, 1:4, 1:4], array[10:12, 10:12, 10:12] = 100, 100
    scan = write_scan(tmp_path / "scan.nii.gz", array)
    assert run(own(tmp_path / "c.pth"), scan, tmp_path / "out", "--largest_component") == 0
    assert (
        array_of(tmp_path / "out" / "scan.nii.gz").sum() == 27
        and array_of(tmp_path / "out" / "scan.nii.gz")[2, 2, 2] == 1
    )


def test_a_box_stands_in_for_the_published_crop(tmp_path, capsys):
    array = mr()
    scan = write_scan(tmp_path / "scan.nii.gz", array)
    model = threshold.checkpoint(tmp_path / "c.pth", LA, PATCH)
    assert run(model, scan, tmp_path / "out", "--box", 3, 15, 0, 11, 4, 15) == 0
    expected = np.zeros(SHAPE, np.uint8)
    expected[3:15, 0:11, 4:15] = (
        255 * above_mean(array)[3:15, 0:11, 4:15]
    )  # z-scored over the whole scan, as published
    assert np.array_equal(array_of(tmp_path / "out" / "scan.nii.gz"), expected)
    assert "cropped by the label" not in capsys.readouterr().out
    assert run(model, scan, tmp_path / "whole") == 0
    assert "warning: the training scans of LA were cropped to the label" in capsys.readouterr().out
    assert run(model, scan, tmp_path / "beyond", "--box", 3, 15, 0, 19, 4, 15) == 2
    assert "not inside" in (error := capsys.readouterr().err) and "21 x 18 x 15 voxels" in error


@pytest.mark.parametrize("dataset, info", [("Pancreas", PANCREAS), ("KiTS19", KITS19)])
def test_boxes_of_resampled_scans(tmp_path, dataset, info):
    """A bright block in the box is found where it is, one outside is not looked at."""
    array = np.full((60, 50, 40), 40, np.int16)
    array[20:32, 10:30, 12:26] = 200
    array[45:55, 40:48, 30:38] = 200
    scan = write_scan(tmp_path / "scan.nii.gz", array, (0.8, 0.8, 1.5))
    level = 0.5 if dataset == "Pancreas" else 1.0  # 0..1 over the scan; z-scored
    model = threshold.checkpoint(tmp_path / "c.pth", info, (32, 32, 32), level=level)
    size = ["--size", 80, 60, 40] if dataset == "KiTS19" else []
    assert run(model, scan, tmp_path / "out", "--box", 10, 44, 2, 39, 6, 36, *size) == 0
    found = array_of(tmp_path / "out" / "scan.nii.gz")
    truth = np.zeros_like(found)
    truth[20:32, 10:30, 12:26] = 1
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.9 and found[44:].sum() == 0
