"""From tiny raw scans to the published layouts: every number of each preparation, computed here a
second time.
"""

import json
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest
from forked import Forked
from helpers import unfinished
from raw_scans import (
    ORIENTATIONS,
    abdominal_scan,
    acdc_patient,
    blob,
    body,
    la_scan,
    noise,
    pancreas_scan,
    write_scan,
)
from scipy.ndimage import binary_dilation, binary_fill_holes, map_coordinates
from scipy.ndimage import label as label_pieces
from scripts import prepare

from commands import prepare as command
from dataloaders.cases import read_cases
from datasets.la import LAPreparation, margins
from datasets.pancreas import PancreasPreparation, coranet_range, mcnet
from datasets.prepare.abdomen import body_mask
from datasets.prepare.prepared_files import RawCase
from datasets.registry import all_datasets
from scans.geometry import Geometry
from scans.reading import Scan
from utils.errors import UserError
from utils.workers import worker_pool

ACDC, KITS19, LA, LITS = (all_datasets()[name].info for name in ("ACDC", "KiTS19", "LA", "LiTS"))

KNOWN = (
    "06SR5RBREL16DQ6M8LWS",
    (15, 16),
    (28, 26),
)  # a public scan and what its crop leaves in x and y


@pytest.fixture(autouse=True)
def in_process(monkeypatch):
    """A thread in place of processes."""

    @contextmanager
    def threads(_):
        with ThreadPoolExecutor(1) as pool:
            yield pool

    monkeypatch.setattr(command, "worker_pool", threads)


def run(dataset, source, root, *flags) -> int:
    return prepare(
        ["--dataset", dataset, "--source", str(source), "--root_path", str(root), *map(str, flags)]
    )


def read(path: Path) -> tuple[np.ndarray, np.ndarray | None, dict]:
    with h5py.File(path) as file:
        return file["image"][()], file["label"][()] if "label" in file else None, dict(file.attrs)


def linear(array: np.ndarray, size: tuple[int, ...], order: int = 1) -> np.ndarray:
    """Voxel i of the result at i * old / new of the array, whose last voxel extends for half a
    voxel, with 0 beyond.
    """
    places = np.meshgrid(
        *(np.arange(new) * old / new for old, new in zip(array.shape, size, strict=True)),
        indexing="ij",
    )
    found = map_coordinates(array.astype(float), places, order=order, mode="nearest")
    outside = np.any(
        [place > old - 0.5 for place, old in zip(places, array.shape, strict=True)], axis=0
    )
    return np.where(outside, 0, found)


# --- ACDC


def test_acdc(tmp_path):
    acdc_patient(tmp_path / "raw", "patient099", ("04", "11"))  # in train.list
    acdc_patient(tmp_path / "raw", "patient028")  # in val.list
    write_scan(
        tmp_path / "raw" / "training" / "patient028" / "patient028_4d.nii.gz", noise((4, 4, 4))
    )
    out = tmp_path / "out"
    assert run("ACDC", tmp_path / "raw", out) == 0
    raw = noise((20, 24, 3), blob((20, 24, 3), (5, 6, 0), (12, 15, 2), 2), 2 * 99 + 1)
    image, label, attributes = read(out / "data" / "patient099_frame02.h5")
    assert (
        np.array_equal(image, ((raw - raw.min()) / (raw.max() - raw.min())).astype(np.float32).T)
        and image.dtype == np.float32
    )
    assert label.dtype == np.uint8 and set(np.unique(label)) == {0, 2}
    assert np.allclose(attributes["spacing_mm"], (10, 1.25, 1.5))
    assert json.loads(attributes["source_files"]) == [
        "patient099_frame11.nii.gz",
        "patient099_frame11_gt.nii.gz",
    ]
    assert (
        len(json.loads(attributes["source_sha256"])[0]) == 64
        and "SimpleITK" in attributes["versions"]
    )
    assert str(tmp_path) not in str(attributes)
    for k in range(3):
        plane, truth, _ = read(out / "data" / "slices" / f"patient099_frame02_slice_{k + 1}.h5")
        assert np.array_equal(plane, image[k]) and np.array_equal(truth, label[k])
    assert not (out / "data" / "slices" / "patient028_frame01_slice_1.h5").exists()
    assert (out / "train.list").read_text(encoding="utf-8").split() == [
        "patient099_frame01",
        "patient099_frame02",
    ]
    assert sorted((out / "train_slices.list").read_text(encoding="utf-8").split()) == [
        f"patient099_frame0{f}_slice_{n}" for f in (1, 2) for n in (1, 2, 3)
    ]
    assert [case.name for case in read_cases(ACDC, out, "val")] == [
        "patient028_frame01",
        "patient028_frame02",
    ]


def test_a_frame_without_partner_is_not_guessed_and_one_without_label_prepared(tmp_path, capsys):
    acdc_patient(tmp_path / "raw", "patient099")
    folder = tmp_path / "raw" / "training" / "patient099"
    (folder / "patient099_frame12_gt.nii.gz").unlink()
    assert run("ACDC", tmp_path / "raw", tmp_path / "out") == 0
    assert (
        "has no label next to it" in capsys.readouterr().out
        and read(tmp_path / "out" / "data" / "patient099_frame02.h5")[1] is None
    )
    (folder / "patient099_frame12.nii.gz").unlink()
    assert run("ACDC", tmp_path / "raw", tmp_path / "other") == 2
    assert "patient099 has 1 frames" in capsys.readouterr().err


# --- LA


@pytest.mark.parametrize("name", [KNOWN[0], "SOMEBODY"])
def test_la(tmp_path, name):
    shape, low, high = (160, 170, 6), (60, 70, 1), (99, 99, 4)
    la_scan(tmp_path / "raw", name, shape, low, high)
    assert run("LA", tmp_path / "raw", tmp_path / "out", "--cases", name) == 0
    image, label, attributes = read(LA.path(tmp_path / "out", name))
    truth = blob(shape, low, high)
    raw = noise(shape, truth).astype(float)
    scaled = ((raw - raw.mean()) / raw.std()).astype(np.float32)
    start, stop = attributes["crop_start"], attributes["crop_stop"]
    box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    assert np.array_equal(image, scaled[box]) and np.array_equal(label, truth[box])
    assert (start[2], stop[2]) == (0, 6)
    left = [(low[axis] - start[axis], stop[axis] - 1 - high[axis]) for axis in (0, 1)]
    if name == KNOWN[0]:
        assert left == [KNOWN[1], KNOWN[2]]
    # p = (112 - 39) // 2 and (112 - 29) // 2, with margins from 10 to 19, the upper end exclusive
    else:
        assert all(
            10 <= below - p <= 19 and 10 <= above + 1 - p <= 19
            for (below, above), p in zip(left, (36, 41), strict=True)
        )
    expected = np.diag([-0.625, -0.625, 0.625, 1])
    expected[:3, 3] = np.diag(expected)[:3] * start
    assert np.allclose(attributes["affine"], expected)


def test_an_la_header_with_1_mm_is_stored_as_0_625_mm_and_named(tmp_path, capsys):
    la_scan(tmp_path / "raw", KNOWN[0], spacing=(1, 1, 1))
    assert run("LA", tmp_path / "raw", tmp_path / "out") == 0
    _, _, attributes = read(LA.path(tmp_path / "out", KNOWN[0]))
    assert attributes["spacing_mm"].tolist() == [0.625] * 3
    assert attributes["source_spacing_mm"].tolist() == [0.625] * 3
    expected = np.diag([-0.625, -0.625, 0.625, 1])
    expected[0, 3] = -0.625 * 5  # the crop starts at voxel 5 along x
    assert np.array_equal(attributes["affine"], expected)
    out = "".join(capsys.readouterr())
    assert (
        "lgemri.nrrd: its header has a spacing of 1 mm, LA's scans have 0.625 mm, which is stored "
        "instead" in out
    )
    assert "voxels apart" not in out


def test_an_la_header_with_another_spacing_is_stored_as_it_is(tmp_path, capsys):
    la_scan(tmp_path / "raw", KNOWN[0], spacing=(1, 1, 1.25))
    assert run("LA", tmp_path / "raw", tmp_path / "out") == 0
    attributes = read(LA.path(tmp_path / "out", KNOWN[0]))[2]
    assert attributes["spacing_mm"].tolist() == [1, 1, 1.25]
    assert "its header has" not in "".join(capsys.readouterr())


def test_a_prediction_of_an_la_scan_with_1_mm_keeps_the_header_and_warns(tmp_path):
    la_scan(tmp_path, KNOWN[0], spacing=(1, 1, 1))
    path = tmp_path / "Training Set" / KNOWN[0] / "lgemri.nrrd"
    lines: list[str | None] = []
    preparation = LAPreparation(crop="none")
    (output,) = preparation.prepare(RawCase("A", (path,), part="predict"), lines.append)
    assert output.attributes["source_spacing_mm"].tolist() == [1, 1, 1]
    assert np.array_equal(output.attributes["affine"], np.diag([-1, -1, 1, 1]))
    assert [line for line in lines if line] == [
        f"{path}: its header has a spacing of 1 mm, LA's scans have 0.625 mm; volumes in ml follow "
        "the header, correct it if it is wrong"
    ]


def test_la_margins_are_the_same_ones_again_and_end_with_the_scan(tmp_path):
    label = blob((160, 150, 4), (60, 50, 1), (99, 79, 2))
    assert margins("A", label) == margins("A", label) != margins("B", label)
    la_scan(tmp_path / "raw", KNOWN[0])
    assert run("LA", tmp_path / "raw", tmp_path / "out") == 0
    image, _, attributes = read(LA.path(tmp_path / "out", KNOWN[0]))
    assert (
        attributes["crop_start"].tolist() == [5, 0, 0]
        and attributes["crop_stop"].tolist() == [56, 50, 6]
        and image.shape == (51, 50, 6)
    )


def test_without_label_only_the_whole_scan_can_be_prepared(tmp_path, capsys):
    la_scan(tmp_path / "raw", KNOWN[0], label=False)
    assert run("LA", tmp_path / "raw", tmp_path / "out") == 2
    assert (
        "lgemri.nrrd: has no label, which the published crop follows; use --crop none to prepare "
        "it without one" in capsys.readouterr().err
    )
    assert run("LA", tmp_path / "raw", tmp_path / "whole", "--crop", "none") == 0
    image, label, _ = read(LA.path(tmp_path / "whole", KNOWN[0]))
    assert image.shape == (60, 50, 6) and label is None


# --- Pancreas


@pytest.mark.parametrize(
    "low, high, length, box",
    [
        (100, 199, 512, (75, 226)),  # 25 below, 26 above, the end exclusive
        (100, 109, 512, (58, 154)),  # 61 voxels, widened to 96: 17 below, 18 above
        (3, 30, 512, (0, 96)),  # moved inside
        (480, 505, 512, (416, 512)),
        (10, 20, 60, (0, 60)),  # shorter than 96: padded later
    ],
)
def test_coranets_box(low, high, length, box):
    assert coranet_range(low, high, length) == box


def test_pancreas_as_coranet(tmp_path):
    image, label = pancreas_scan(tmp_path / "raw", "0001", (0.5, 0.5, 1.0))
    assert run("Pancreas", tmp_path / "raw", tmp_path / "out") == 0
    stored, truth, attributes = read(tmp_path / "out" / "data" / "0001.h5")
    small, marked = (
        array[::2, ::2, ::2].astype(float) for array in (image, label)
    )  # all axes by the in-plane spacing, slices too
    small = small.clip(-125, 275)
    small = (small - small.min()) / (small.max() - small.min())
    start, stop = zip(
        *(
            coranet_range(*ends, n)
            for ends, n in zip(((30, 49), (31, 45), (10, 19)), small.shape, strict=True)
        ),
        strict=True,
    )
    box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    fill = [(0, 96 - (b - a)) for a, b in zip(start, stop, strict=True)]
    assert stored.shape == (96, 96, 96) and stored.dtype == np.float64
    assert np.array_equal(stored, np.pad(small[box], fill)) and np.array_equal(
        truth, np.pad(marked[box], fill)
    )
    assert np.allclose(attributes["spacing_mm"], (1, 1, 2)) and attributes[
        "crop_start"
    ].tolist() == list(start)
    with h5py.File(tmp_path / "out" / "data" / "0001.h5") as file:
        assert file["image"].compression is None
    assert (tmp_path / "out" / "train_lab.txt").read_text(encoding="utf-8") == "0001.h5\n"


def test_pancreas_as_mcnet(tmp_path):
    image, label = pancreas_scan(tmp_path / "raw", "0001", (1, 1, 1))
    assert run("Pancreas", tmp_path / "raw", tmp_path / "out", "--variant", "mcnet") == 0
    stored, truth, _ = read(tmp_path / "out" / "data" / "image0001_norm.h5")
    box = (
        slice(60 - 25 - 28, 99 + 25 + 28),
        slice(62 - 25 - 33, 91 + 25 + 33),
    )  # p = (96 - 39) // 2 and (96 - 29) // 2
    expected = ((image.clip(-125, 275) + 125) / 400)[box].astype(np.float32)
    assert np.allclose(stored, (expected - expected.mean()) / expected.std(), atol=1e-5)
    assert np.array_equal(truth, label[box])
    assert (tmp_path / "out" / "train_lab.txt").read_text(encoding="utf-8") == "image0001_norm\n"


def test_mcnet_keeps_fractions_of_hu_between_the_voxels():
    """10 HU more every 0.8 mm are 12.5 HU per mm, so all steps of 1 mm are equal."""
    ramp = np.broadcast_to(10 * np.arange(25, dtype=np.int16)[:, None, None], (25, 4, 4))
    geometry = Geometry(np.array((0.8, 1.0, 1.0)), origin=np.zeros(3), direction=np.eye(3))
    scan = Scan(Path("ramp"), ramp, geometry, sha256="")
    image = mcnet(scan, None, crop=False, part=((0, 0, 0), (25, 4, 4))).image[:, 2, 2]
    steps = np.diff(image[5:15])
    assert np.allclose(steps, steps[0], rtol=1e-3)


def test_files_of_mcnet_with_whole_hu_count_as_made_with_other_settings():
    settings = [PancreasPreparation(variant=variant).settings for variant in ("coranet", "mcnet")]
    assert [each["version"] for each in settings] == [1, 2]


def test_pancreas_at_one_millimetre(tmp_path):
    pancreas_scan(tmp_path / "raw", "0001", (0.8, 0.8, 1.5))
    assert (
        run("Pancreas", tmp_path / "raw", tmp_path / "out", "--variant", "mcnet", "--crop", "none")
        == 0
    )
    image, _, attributes = read(tmp_path / "out" / "data" / "image0001_norm.h5")
    assert (
        image.shape == (120, 112, 90)
        and np.allclose(attributes["spacing_mm"], 1)
        and abs(image.mean()) < 1e-5
    )


def test_the_two_pancreas_preparations_do_not_mix(tmp_path):
    pancreas_scan(tmp_path / "raw", "0001", (1, 1, 1))
    run("Pancreas", tmp_path / "raw", tmp_path / "out")
    with pytest.raises(
        command.UserError,
        match=r"preparation.json: made with different settings \(.*variant coranet, now mcnet\)",
    ):
        run("Pancreas", tmp_path / "raw", tmp_path / "out", "--variant", "mcnet")


# --- KiTS19 and LiTS


@pytest.mark.parametrize("dataset, info", [("KiTS19", KITS19), ("LiTS", LITS)])
def test_kits19_and_lits(tmp_path, dataset, info):
    low, width = {"KiTS19": (-160, 400), "LiTS": (-100, 300)}[dataset]
    name, image, label = abdominal_scan(tmp_path / "raw", dataset)
    assert run(dataset, tmp_path / "raw", tmp_path / "out", "--size", 48, 40, 32) == 0
    stored, truth, attributes = read(info.path(tmp_path / "out", name))
    slices, marked = image.transpose(2, 1, 0), label.transpose(2, 1, 0)
    window = ((slices - low) / width).clip(0, 1)
    masks = np.array([body_mask(plane) for plane in window])
    assert masks[0].all() and not masks[20].all()
    box = (
        slice(5, 34),
        slice(0, 90),
        slice(0, 96),
    )  # 15 - 10 to 24 + 10; the empty slices make the box the whole plane
    assert (
        np.allclose(stored, linear((window * masks)[box], (32, 40, 48)), atol=1e-6)
        and stored.dtype == np.float32
    )
    assert (truth == linear(marked[box], (32, 40, 48), 0)).mean() > 0.999 and set(
        np.unique(truth)
    ) == {0, 1, 2}
    assert np.allclose(attributes["spacing_mm"], (3 * 29 / 32, 0.8 * 90 / 40, 0.7 * 96 / 48))


def test_the_body_mask():
    plane = np.zeros((40, 40))
    plane[10:20, 12:22] = 0.5
    plane[14:16, 15:17] = 1  # bone: a hole that is filled
    plane[30:32, 30:32] = 0.5  # a smaller piece
    rows, columns = np.nonzero(body_mask(plane))
    # widened by 2 on every side, by 2 before and 1 after, by 1 on every side
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (5, 23, 7, 25) and len(
        rows
    ) == 19 * 19
    assert body_mask(np.zeros((9, 9))).all()


def test_the_body_mask_as_scipys_dilation_and_filling_give_it():
    rng = np.random.default_rng(3)
    for share in (0.02, 0.1, 0.3):
        plane = np.where(rng.random((60, 50)) < share, 0.5, 0)
        pieces, _ = label_pieces(binary_dilation(plane > 0, np.ones((5, 5))))
        sizes = np.bincount(pieces.ravel())
        sizes[0] = 0
        body = binary_fill_holes(binary_dilation(pieces == sizes.argmax(), np.ones((4, 4))))
        assert np.array_equal(body_mask(plane), binary_dilation(body, np.ones((3, 3))))


@pytest.mark.parametrize(
    "value, is_body",
    [
        (np.nextafter(0.5 - 0.4, 0), False),
        (0.5 - 0.4, False),  # 0.09999999999999998: the bound itself lies outside
        (0.1, True),
        (np.nextafter(0.9, 0), True),
        (0.9, False),
        (1.0, False),
    ],
)
def test_soft_tissue_lies_between_the_published_bounds(value, is_body):
    """A slice on which nothing is soft tissue counts as body everywhere."""
    plane = np.zeros((40, 40))
    plane[10:20, 10:20] = value
    counts_as_body_everywhere = body_mask(plane).all()
    assert counts_as_body_everywhere == (not is_body)


@pytest.mark.parametrize("dataset, low, width", [("KiTS19", -160, 400), ("LiTS", -100, 300)])
def test_every_whole_hounsfield_number_is_tissue_as_the_published_code_has_it(dataset, low, width):
    """Whole numbers from one below the window to one above it, each as its own slice."""
    preparation = all_datasets()[dataset].preparation()
    numbers = np.arange(low - 1, low + width + 2)
    # exact: (HU - low) / width lies in [1/10, 9/10), computed in whole numbers
    expected = (10 * (numbers - low) >= width) & (10 * (numbers - low) < 9 * width)
    is_tissue = []
    for number in numbers:
        plane = np.full((16, 16), -1000, np.int16)
        plane[0:2, 0:2] = number
        counts_as_body_everywhere = body_mask(preparation.windowed(plane)).all()
        is_tissue.append(not counts_as_body_everywhere)
    assert is_tissue == expected.tolist()


@pytest.mark.parametrize("dataset, number", [("KiTS19", -120), ("LiTS", -70)])
def test_the_crop_follows_a_body_at_exactly_the_lower_bound(tmp_path, dataset, number):
    """With a bound of 0.1 nothing here would be tissue, and the crop would be the whole plane."""
    image = np.full((96, 96, 24), -1000, np.int16)
    image[30:46, 30:46, :] = number
    label = blob(image.shape, (34, 34, 8), (40, 40, 15))
    if dataset == "KiTS19":  # slices first
        folder = tmp_path / "raw" / "case_00034"
        direction = ORIENTATIONS["IPL"]
        write_scan(folder / "imaging.nii.gz", image.transpose(2, 1, 0), direction=direction)
        write_scan(folder / "segmentation.nii.gz", label.transpose(2, 1, 0), direction=direction)
        prepared = KITS19.path(tmp_path / "out", "case_00034")
        in_plane = 1
    else:
        write_scan(tmp_path / "raw" / "volume-127.nii", image)
        write_scan(tmp_path / "raw" / "segmentation-127.nii", label)
        prepared = LITS.path(tmp_path / "out", "volume-127")
        in_plane = 0
    assert run(dataset, tmp_path / "raw", tmp_path / "out", "--size", 16, 16, 16) == 0
    attributes = read(prepared)[2]
    # Rows 30 to 45, dilated by 2, then by 2 below and 1 above, then by 1: 25 to 49. 20 more on both
    # sides, end exclusive.
    assert attributes["crop_start"][in_plane] == 25 - 20
    assert attributes["crop_stop"][in_plane] == 49 + 20


def test_files_made_with_the_former_bound_are_reported(tmp_path):
    """The settings in preparation.json and in every file hold the version of the arithmetic."""
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "raw").mkdir()
    former = {"dataset": "LiTS", "version": 1, "size": [176, 176, 64], "crop": "published"}
    (out / "preparation.json").write_text(json.dumps(former))
    image = body((64, 64, 24))
    write_scan(tmp_path / "raw/volume-127.nii", image)
    write_scan(tmp_path / "raw/segmentation-127.nii", blob(image.shape, (30, 30, 8), (34, 34, 15)))
    with pytest.raises(UserError, match=r"preparation.json: .*version 1, now 2.*--redo"):
        run("LiTS", tmp_path / "raw", out)


def test_slices_along_another_axis_are_said(tmp_path, capsys):
    shape = (48, 44, 30)
    label = blob(shape, (20, 20, 10), (30, 30, 20))
    for array, file in ((body(shape), "imaging.nii.gz"), (label, "segmentation.nii.gz")):
        write_scan(tmp_path / "raw" / "case_00034" / file, array, (0.7, 0.8, 3))
    assert run("KiTS19", tmp_path / "raw", tmp_path / "out", "--size", 16, 16, 16) == 0
    assert "according to the header the slices do not lie along axis 0" in capsys.readouterr().out


# --- labels and headers


def test_a_label_stored_the_other_way_round_is_laid_onto_its_image(tmp_path, capsys):
    name, shape = KNOWN[0], (60, 50, 6)
    truth = blob(shape, (20, 18, 1), (39, 30, 4), 255)
    folder = tmp_path / "raw" / name
    write_scan(folder / "lgemri.nrrd", noise(shape, truth // 255), (0.6, 0.7, 2))
    turned = ORIENTATIONS["LAS"]
    write_scan(folder / "laendo.nrrd", truth[:, ::-1], (0.6, 0.7, 2), (0, 0.7 * 49, 0), turned)
    assert run("LA", tmp_path / "raw", tmp_path / "out") == 0
    image, label, _ = read(LA.path(tmp_path / "out", name))
    assert (
        image[label > 0].min() > image[label == 0].max()
        and "headers" not in capsys.readouterr().out
    )
    write_scan(
        folder / "laendo.nrrd", truth, (0.6, 0.7, 2), (0, 99, 0), turned
    )  # elsewhere: the arrays count, and it is said
    assert run("LA", tmp_path / "raw", tmp_path / "out", "--redo") == 0
    image, label, _ = read(LA.path(tmp_path / "out", name))
    assert (
        image[label > 0].min() > image[label == 0].max()
        and "taken voxel by voxel" in capsys.readouterr().out
    )


# --- finished, interrupted, changed


def test_finished_files_are_kept_and_changed_ones_named(tmp_path, capsys):
    raw, out = tmp_path / "raw", tmp_path / "out"
    la_scan(raw, KNOWN[0])
    assert run("LA", raw, out) == 0
    path = LA.path(out, KNOWN[0])
    before = path.read_bytes()
    assert run("LA", raw, out) == 0 and "0 cases prepared, 1 kept" in capsys.readouterr().out
    assert path.read_bytes() == before
    la_scan(raw, KNOWN[0], low=(10, 18, 1))
    assert (
        run("LA", raw, out) == 2
        and "made from another scan or label; --redo" in capsys.readouterr().err
    )
    assert path.read_bytes() == before
    assert run("LA", raw, out, "--redo") == 0 and path.read_bytes() != before
    path.write_bytes(before[:3000])  # damaged: made again without being asked
    assert run("LA", raw, out) == 0 and read(path)[0].shape == (56, 50, 6)
    with h5py.File(path, "w") as file:  # somebody else's
        file["image"] = np.zeros(3)
    assert run("LA", raw, out) == 2 and "was not made by prepare_data.py" in capsys.readouterr().err


def test_redo_of_some_cases_with_another_crop_is_refused(tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "out"
    other = "0RZDK210BSMWAA6467LU"
    la_scan(raw, KNOWN[0])
    la_scan(raw, other, low=(22, 18, 1))
    assert run("LA", raw, out) == 0
    before = LA.path(out, other).read_bytes()
    message = (
        r"preparation.json: made with different settings \(crop published, now none\); use another "
        "--root_path, the same --crop as for the other cases, or --redo without --cases to prepare"
    )
    with pytest.raises(UserError, match=message):
        run("LA", raw, out, "--redo", "--cases", other, "--crop", "none")
    assert LA.path(out, other).read_bytes() == before
    la_scan(raw, other, low=(10, 18, 1))
    assert run("LA", raw, out, "--redo", "--cases", other) == 0
    assert LA.path(out, other).read_bytes() != before
    assert run("LA", raw, out, "--redo", "--crop", "none") == 0
    assert read(LA.path(out, KNOWN[0]))[0].shape == (60, 50, 6)


def test_a_missing_slice_is_made_again(tmp_path):
    acdc_patient(tmp_path / "raw", "patient099")
    run("ACDC", tmp_path / "raw", tmp_path / "out")
    lost = tmp_path / "out" / "data" / "slices" / "patient099_frame01_slice_2.h5"
    lost.unlink()
    assert run("ACDC", tmp_path / "raw", tmp_path / "out") == 0 and lost.is_file()


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_work_continues_and_leaves_nothing_half_written(
    tmp_path, monkeypatch, number, status
):
    names = (
        (Path(__file__).parents[1] / "data_split" / "LA" / "train.list")
        .read_text(encoding="utf-8")
        .split()[:12]
    )
    for name in names:
        la_scan(tmp_path / "raw", name, (180, 180, 24), (50, 50, 5), (150, 150, 20))
    out = tmp_path / "out"
    flags = [
        "--dataset",
        "LA",
        "--source",
        str(tmp_path / "raw"),
        "--root_path",
        str(out),
        "--workers",
        "2",
    ]
    with monkeypatch.context() as patch:
        patch.setattr(command, "worker_pool", worker_pool)
        stopped = Forked(lambda: prepare(flags))
    stopped.wait(lambda: list(out.rglob("mri_norm2.h5")))
    ended = stopped.stop(number)
    assert ended.status == status and "Traceback" not in ended.said, ended.said
    finished = {path: path.stat().st_mtime_ns for path in out.rglob("*.h5")}
    assert (
        not list(out.rglob(".*"))
        and not list(out.glob("*.list"))
        and 0 < len(finished) < len(names)
    )
    # what a killed process would have left is taken away as well
    unfinished(out / "mri_norm2.h5").write_bytes(b"half")
    assert run("LA", tmp_path / "raw", out) == 0
    assert all(path.stat().st_mtime_ns == then for path, then in finished.items())
    assert len(list(out.rglob("*.h5"))) == len(names) and not list(out.rglob(".*"))
    assert (out / "train.list").read_text(encoding="utf-8").split() == names
