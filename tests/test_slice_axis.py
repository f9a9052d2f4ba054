"""Slices of own data are cut along the axis that the scanner took them along, and predictions come
back from there.
"""

import json

import h5py
import nibabel
import numpy as np
import pytest
import torch
from helpers import train_any
from raw_scans import ORIENTATIONS, blob, noise, write_scan
from scripts import predict, prepare

from commands import predict_model
from dataloaders.plan import Plan, read_plan
from datasets.prepare.planning import FEW_SLICES, slice_axis

AXES = "xyz"
LENGTH = ("--pre_iterations", "1", "--max_iterations", "1", "--val_every", "1")
BATCH = ("--batch_size", "4", "--labeled_bs", "2")
RUN = ("--method", "supervised", *LENGTH, *BATCH, "--device", "cpu")


@pytest.mark.parametrize(
    "spacing, counts, axis",
    [
        ((1, 1, 1), (40, 1, 44), "y"),
        ((1, 1, 1), (40, 3, 44), "y"),
        ((1, 1, 1), (6, 40, 44), "x"),
        ((1, 1, 1), (40, 44, 6), "z"),
        ((1, 1, 1), (12, 10, 11), "y"),
        ((1, 1, 1), (12, 12, 12), "z"),
        ((1, 1, 1), (40, 44, 48), "z"),
        ((1, 1, 5), (40, 44, 48), "z"),
        ((1, 5, 1), (40, 44, 48), "y"),
        ((5, 1, 1), (40, 44, 48), "x"),
        ((1, 1.3, 1), (40, 44, 48), "y"),
        ((0.9, 0.9, 0.6), (40, 44, 48), "z"),
        ((1, 1.05, 1), (40, 44, 48), "z"),
        ((1, 1, 5), (10, 12, 14), "z"),
        ((1, 1, 5), (40, 2, 14), "y"),
        ((1, 1, 2), (40, 3, 44), "y"),
    ],
)
def test_slices_are_cut_along_few_voxels_or_the_largest_spacing(spacing, counts, axis):
    assert AXES[slice_axis(spacing, counts)[0]] == axis


def raw_set(root, shape, spacing=(1, 1, 1), letters="RAS", cases=3):
    """Scans of `shape` along right, front and head, stored with their axes as `letters` say; a
    bright block is the organ.
    """
    direction = np.array(ORIENTATIONS[letters], float)
    axes = [int(np.abs(column).argmax()) for column in direction.T]
    low = tuple(n // 4 for n in shape)
    high = tuple(max(n // 2, 0) for n in shape)
    label = blob(shape, low, high)
    for number in range(cases):
        for folder, array in (("imagesTr", noise(shape, label, number)), ("labelsTr", label)):
            number_of_channel = "_0000" if folder == "imagesTr" else ""
            path = root / folder / f"c{number}{number_of_channel}.nii.gz"
            write_scan(path, array.transpose(axes), np.array(spacing)[axes], (3, 5, 7), direction)
    content = {
        "channel_names": {"0": "MR"},
        "labels": {"background": 0, "organ": 1},
        "numTraining": cases,
        "file_ending": ".nii.gz",
    }
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def prepared(raw, root, *flags):
    places = ["--dataset", "own", "--source", str(raw), "--root_path", str(root)]
    assert prepare([*places, "--workers", "1", *map(str, flags)]) == 0
    return read_plan(root)


@pytest.mark.parametrize("flags", [(), ("--dims", 2)])
def test_the_axis_is_in_the_plan_and_printed(tmp_path, capsys, flags):
    plan = prepared(raw_set(tmp_path / "raw", (20, 3, 22)), tmp_path / "out", *flags)
    assert (plan.dims, plan.axes, plan.spacing_mm) == (2, "yzx", (1, None, 1))
    assert "slices are cut along y, back to front (it has the fewest voxels, 3)" in (
        capsys.readouterr().out
    )
    with h5py.File(tmp_path / "out" / "data" / "c0.h5") as file:
        assert file["image"].shape == (3, 22, 20)


def test_dims_2_of_scans_with_one_large_spacing_cuts_along_it(tmp_path):
    raw = raw_set(tmp_path / "raw", (20, 18, 22), spacing=(2, 1, 1))
    assert prepared(raw, tmp_path / "out", "--dims", 2).axes == "xzy"


def test_thick_slices_are_not_resampled_across_whatever_is_trained_on(tmp_path):
    raw = raw_set(tmp_path / "raw", (20, 18, 22), spacing=(1, 4, 1))
    assert prepared(raw, tmp_path / "out", "--dims", 3).spacing_mm == (1, None, 1)


def test_scans_with_few_slices_along_another_axis_are_told(tmp_path, capsys):
    raw = raw_set(tmp_path / "raw", (20, 3, 22), cases=2)
    shape = (3, 20, 22)
    label = blob(shape, (1, 5, 5), (2, 9, 9))
    (raw / "imagesUn").mkdir()
    write_scan(raw / "imagesUn" / "sagittal_0000.nii.gz", noise(shape, label))
    prepared(raw, tmp_path / "out")
    said = capsys.readouterr().out
    assert "warning: 1 of 2 training scans (sagittal ...) have few or thick slices" in said


def bright(member, image):
    """In place of a network: the organ is where a prepared image is bright."""
    for plane in torch.from_numpy(image[0]):
        organ = (plane > 1).float()
        yield torch.stack([1 - organ, organ])


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize(
    "shape, spacing, letters",
    [
        ((20, 3, 22), (1, 1, 1), "PSR"),
        ((4, 24, 22), (1, 1, 1), "LPS"),
        ((20, 18, 22), (1, 4, 1), "IPL"),
    ],
)
def test_predictions_of_any_slice_axis_lie_on_the_scan_s_own_grid(
    tmp_path, monkeypatch, shape, spacing, letters
):
    raw = raw_set(tmp_path / "raw", shape, spacing, letters)
    plan = prepared(raw, tmp_path / "out")
    assert plan.dims == 2 and plan.axes[0] != "z"
    run = ["--root_path", str(tmp_path / "out"), "--output_root", str(tmp_path / "runs"), *RUN]
    train_any(run)
    best = next((tmp_path / "runs").rglob("supervised/*best*.pth"))
    monkeypatch.setattr(predict_model, "planes_of", bright)
    back = tmp_path / "back"
    flags = ["--checkpoint", best, "--input", raw / "imagesTr", "--output", back, "--device", "cpu"]
    assert predict([str(flag) for flag in flags]) == 0
    for case in ("c0", "c1", "c2"):
        truth = nibabel.load(raw / "labelsTr" / f"{case}.nii.gz")
        scan = nibabel.load(raw / "imagesTr" / f"{case}_0000.nii.gz")
        found = nibabel.load(back / f"{case}.nii.gz")
        assert np.array_equal(np.asarray(found.dataobj), np.asarray(truth.dataobj))
        assert np.allclose(found.affine, scan.affine) and truth.get_fdata().any()


def test_a_plan_without_reasons_still_means_slices_along_its_first_axis(tmp_path):
    plan = prepared(raw_set(tmp_path / "raw", (20, 22, 3)), tmp_path / "out")
    content = plan.as_dict()
    del content["why"]
    assert Plan.from_dict(content).axes[0] == "z" and FEW_SLICES > 3
