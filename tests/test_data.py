from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from helpers import ACDC, KITS19, LA, LITS, assert_same
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from dataloaders.augment import (
    INTENSITIES,
    Augmentation,
    VolumeAugmentation,
    resize,
    scale,
    turn_or_rotate,
)
from dataloaders.cases import read_cases, read_volume
from dataloaders.hdf5 import SPLITS, read_case, read_list
from dataloaders.slices import Slices, first_patients
from dataloaders.transforms import SliceTransform, zoom_nearest, zoom_nearest_on_device
from dataloaders.two_stream import Draw, TwoPassSampler, TwoStreamSampler
from dataloaders.volumes import VolumePatches, first_cases
from utils.errors import UserError


@pytest.mark.parametrize(
    "labelnum, slices",
    [(1, 32), (3, 68), (7, 136), (14, 256), (21, 396), (28, 512), (35, 664), (70, 1312)],
)
def test_labelled_slices_of_the_committed_list(labelnum, slices):
    assert first_patients(SPLITS / "ACDC", ACDC, labelnum)[1] == slices


@pytest.mark.parametrize("labelnum", [0, -1, 71])
def test_labelnum_out_of_range(labelnum):
    with pytest.raises(UserError, match="choose 1 to 70"):
        first_patients(SPLITS / "ACDC", ACDC, labelnum)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(*[st.integers(2, 300)] * 4)
def test_zoom_equals_scipy(height, width, new_height, new_width):
    array = 1 + np.arange(height * width, dtype=np.float32).reshape(height, width)
    expected = ndimage.zoom(array, (new_height / height, new_width / width), order=0)
    np.testing.assert_array_equal(zoom_nearest(array, (new_height, new_width)), expected)
    for dtype in (np.float32, np.uint8):
        here = zoom_nearest_on_device(
            torch.from_numpy(array.astype(dtype)), (new_height, new_width)
        )
        np.testing.assert_array_equal(here.numpy(), expected.astype(dtype))


def test_transforms_by_hand():
    array = np.array([[1, 2], [3, 4]])
    assert SliceTransform(quarter_turns=1, flip_axis=0)(array).tolist() == [[1, 3], [2, 4]]
    assert (
        SliceTransform()(array) is not None and SliceTransform()(array).tolist() == array.tolist()
    )
    big = np.zeros((21, 21), np.uint8)
    big[10, 10:] = 3
    np.testing.assert_array_equal(
        SliceTransform(angle=-17)(big), ndimage.rotate(big, -17, order=0, reshape=False)
    )


def test_tables_of_picks_equal_the_transforms_one_by_one():
    """1500 draws over small slices, one with two channels, every 25th over one of ACDC's, for whose
    zoom scipy leaves out a row; every pixel has a number of its own.
    """
    shapes = [(1, 54, 64), (1, 64, 54), (2, 21, 30), (1, 64, 64), (1, 39, 56)] * 5
    shapes[0] = (1, 216, 256)
    images = [np.arange(1, np.prod(shape) + 1, dtype=np.float32).reshape(shape) for shape in shapes]
    for number in range(1500):
        size = (256, 256) if number % 25 == 0 else (64, 48)
        augment = Augmentation((turn_or_rotate, resize(size)))
        image = images[number % len(images)]
        label = (image[0] % 4).astype(np.uint8)
        picked, picked_label = augment(np.random.default_rng((3, number)), image, label).values()
        turned = turn_or_rotate(np.random.default_rng((3, number)), image.shape[1:])
        assert np.array_equal(picked, zoom_nearest(turned(image), size))
        assert (
            np.array_equal(picked_label, zoom_nearest(turned(label), size))
            and picked_label.dtype == np.uint8
        )


def test_transforms_of_other_kinds_keep_their_place_in_the_row():
    """A page's own function, which must see the shape that those before it leave, between two that
    are joined.
    """
    image, seen = np.arange(6 * 8, dtype=np.float32).reshape(1, 6, 8), []

    def halved(rng, shape):
        seen.append(tuple(shape))
        return lambda array: array[..., ::2]

    augment = Augmentation(
        (lambda rng, shape: SliceTransform(quarter_turns=1), resize((8, 4)), halved, resize((4, 4)))
    )
    expected = zoom_nearest(zoom_nearest(np.rot90(image, 1, (1, 2)), (8, 4))[..., ::2], (4, 4))
    assert np.array_equal(
        augment(np.random.default_rng(0), image, None)["image"], expected
    ) and seen == [(8, 4)]
    with pytest.raises(UserError, match="--cache device: the augmentation"):
        augment(np.random.default_rng(0), torch.from_numpy(image), None)


def same_batches_on_the_device(data, batches):
    """Batches of the loader against those made where the images lie; on `meta` nothing can be read
    back.
    """
    expected = [data.__getitems__(draws) for draws in batches]
    kept = list(data.kept)
    data.place(torch.device("cpu"))
    for draws, batch in zip(batches, expected, strict=True):
        assert_same(data.__getitems__(draws), batch)
    data.kept = kept
    data.place(torch.device("meta"))
    for draws, batch in zip(batches, expected, strict=True):
        there = data.__getitems__(draws)
        assert {key: (x.shape, x.dtype, x.is_meta) for key, x in there.items()} == {
            k: (x.shape, x.dtype, True) for k, x in batch.items()
        }


def test_slices_on_the_device_make_the_same_batches(small_root):
    data = slices(small_root, (16, 32))
    same_batches_on_the_device(
        data,
        list(TwoStreamSampler(data.labelled, data.unlabelled, 2, 2, seed=(0, 0), steps=range(20))),
    )


@pytest.mark.parametrize("crop_first", [True, False])
def test_volumes_on_the_device_make_the_same_batches(la_root, crop_first):
    """One side of the patch is larger than the scans', so that they are padded."""
    augment = Augmentation((VolumeAugmentation((32, 48, 16), spare=3, crop_first=crop_first).draw,))
    data = VolumePatches(
        LA, la_root, *first_cases(la_root, LA, 2), (augment, augment), say=lambda message: None
    )
    same_batches_on_the_device(
        data, list(TwoStreamSampler(2, 4, 2, 2, seed=(0, 0), steps=range(10)))
    )


def test_draws_have_the_published_shares():
    draws = [turn_or_rotate(np.random.default_rng((5, i)), (9, 9)) for i in range(4000)]
    turned = [d for d in draws if d.flip_axis is not None]
    assert abs(len(turned) / 4000 - 0.5) < 0.03
    assert {(d.quarter_turns, d.flip_axis) for d in turned} == {
        (k, axis) for k in range(4) for axis in range(2)
    }
    angles = {d.angle for d in draws}
    assert (min(angles), max(angles)) == (-20, 19)
    assert abs(sum(d.angle != 0 for d in draws) / 4000 - 0.25 * 39 / 40) < 0.03


def test_labelled_epochs_are_full_shuffled_passes():
    batches = list(TwoStreamSampler(10, 7, 4, 4, seed=(1, 0), steps=range(6)))
    labelled = [[d.case for d in batch[:4]] for batch in batches]
    for epoch in range(3):
        seen = labelled[2 * epoch] + labelled[2 * epoch + 1]
        assert len(set(seen)) == 8 and set(seen) <= set(range(10))
    assert labelled[:2] != labelled[2:4]


def test_unlabelled_cases_are_shuffled_anew_at_every_labelled_epoch():
    """4 labelled cases, 2 a step: epochs of 2 steps, 8 unlabelled draws each: one pass over all 7
    and the first of another.
    """
    batches = list(TwoStreamSampler(4, 7, 2, 4, seed=(1, 0), steps=range(8)))
    unlabelled = [d.case for batch in batches for d in batch[2:]]
    passes = [unlabelled[8 * k : 8 * k + 7] for k in range(4)]
    assert all(sorted(one) == list(range(4, 11)) for one in passes)
    assert len({tuple(one) for one in passes}) == 4


def test_the_streams_of_cogrnet_shuffle_each_for_itself():
    """Half a of each stream is what one loader draws, half b what another does; so a labelled
    volume can be in both halves.
    """
    batches = [
        [d.case for d in batch] for batch in TwoPassSampler(5, 7, 4, 4, seed=(1,), steps=range(40))
    ]
    assert all(len({*labelled[:2]}) == len({*labelled[2:4]}) == 2 for labelled in batches)
    assert any(len({*labelled[:4]}) < 4 for labelled in batches)
    shared = [
        [d.case for d in batch]
        for batch in TwoStreamSampler(5, 7, 4, 4, seed=(1,), steps=range(40))
    ]
    assert all(len({*labelled[:4]}) == 4 for labelled in shared)
    assert all(set(batch[4:]) <= set(range(5, 12)) and max(batch[:4]) < 5 for batch in batches)


def test_a_step_depends_on_seed_and_step_alone():
    whole = list(TwoStreamSampler(10, 7, 4, 4, seed=(1, 0), steps=range(9)))
    assert list(TwoStreamSampler(10, 7, 4, 4, seed=(1, 0), steps=range(5, 9))) == whole[5:]
    assert list(TwoStreamSampler(10, 7, 4, 4, seed=(1, 1), steps=range(9))) != whole
    assert list(TwoStreamSampler(10, 7, 4, 4, seed=(2, 0), steps=range(9))) != whole


def test_processes_share_every_half():
    one = TwoStreamSampler(10, 7, 4, 4, seed=(1, 0), steps=range(1)).batch(0)
    ranks = [
        TwoStreamSampler(10, 7, 4, 4, seed=(1, 0), steps=range(1), rank=r, world=2).batch(0)
        for r in range(2)
    ]
    halves = [one[i : i + 2] for i in range(0, 8, 2)]
    for i, half in enumerate(halves):
        assert {ranks[0][i], ranks[1][i]} == set(half)


KEPT = Augmentation(())


def write(path, **data):
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for key, value in data.items():
            file[key] = value
    return path


@pytest.mark.parametrize(
    "data, message",
    [
        ({"label": np.zeros((4, 4), np.uint8)}, "no data set of numbers 'image'"),
        ({"image": np.zeros((4, 4), np.float32)}, "no data set of numbers 'label'"),
        (
            {"image": np.zeros((4, 4), np.float32), "label": np.zeros((4, 5), np.uint8)},
            "differ in shape",
        ),
        (
            {"image": np.full((4, 4), np.nan, np.float32), "label": np.zeros((4, 4), np.uint8)},
            "NaN",
        ),
        (
            {"image": np.zeros((4, 4), np.float32), "label": np.full((4, 4), 4, np.uint8)},
            r"4\.\.4, expected 0\.\.3",
        ),
        (
            {"image": np.zeros((2, 4, 4), np.float32), "label": np.zeros((2, 4, 4), np.uint8)},
            "expected 2 dimensions",
        ),
    ],
)
def test_faulty_files_are_named(tmp_path, data, message):
    path = write(tmp_path / "case.h5", **data)
    with pytest.raises(UserError, match=message) as error:
        read_case(path, ACDC, 2)
    assert str(path) in str(error.value)


def test_missing_and_damaged_files(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_case(tmp_path / "absent.h5", ACDC, 2)
    (tmp_path / "damaged.h5").write_bytes(b"not HDF5")
    with pytest.raises(UserError, match="not a readable HDF5"):
        read_case(tmp_path / "damaged.h5", ACDC, 2)
    with pytest.raises(UserError, match="no such folder"):
        Slices(ACDC, tmp_path / "nowhere", ["a"], 1, (KEPT, KEPT))
    (tmp_path / "train_slices.list").write_text("\n")
    with pytest.raises(UserError, match="list is empty"):
        first_patients(tmp_path, ACDC, 1)


def test_lists_are_read_liberally(tmp_path):
    (tmp_path / "val.list").write_text("a.h5\nb,3\n\n c \n")
    assert read_list(tmp_path, "ACDC", "val.list") == ["a", "b", "c"]


def test_a_flat_la_folder_with_cogrnets_list_names(tmp_path):
    """<root>/<id>.h5 and train_la.txt are found where UA-MT's places and names are not; where both
    are, UA-MT's are taken.
    """
    (tmp_path / "train_la.txt").write_text("a\nb\n")
    write(tmp_path / "a.h5", image=np.zeros((2, 2, 2)))
    assert (
        LA.read_list(tmp_path, LA.train_list) == ["a", "b"]
        and LA.path(tmp_path, "a") == tmp_path / "a.h5"
    )
    published = tmp_path / "2018LA_Seg_Training Set" / "a" / "mri_norm2.h5"
    published.parent.mkdir(parents=True)
    write(published, image=np.zeros((2, 2, 2)))
    (tmp_path / "train.list").write_text("c\n")
    assert LA.read_list(tmp_path, LA.train_list) == ["c"] and LA.path(tmp_path, "a") == published
    for info, suffix in ((KITS19, "kits"), (LITS, "lits")):
        (tmp_path / f"test_{suffix}.txt").write_text(f"{suffix}_1.h5\n")
        assert info.read_list(tmp_path, info.test_list) == [f"{suffix}_1"]


@pytest.fixture
def small_root(tmp_path):
    """Two patients; the second one's files have no label at all."""
    rng = np.random.default_rng(0)
    names = [f"patient{p}_frame01_slice_{s}" for p in (1, 2) for s in (1, 2, 3)]
    for name in names:
        data = {"image": rng.random((20, 24), np.float32)}
        if name.startswith("patient1"):
            data["label"] = rng.integers(0, 4, (20, 24)).astype(np.uint8)
        write(tmp_path / "data" / "slices" / f"{name}.h5", **data)
    (tmp_path / "train_slices.list").write_text("\n".join(names))
    return tmp_path


def slices(root, size):
    return Slices(
        ACDC,
        root,
        *first_patients(root, ACDC, 1),
        2 * (Augmentation((turn_or_rotate, resize(size))),),
    )


def test_unlabelled_cases_need_no_label_and_every_file_is_read_once(small_root, monkeypatch):
    opened = []
    real = h5py.File
    monkeypatch.setattr(
        h5py, "File", lambda path, *a, **k: opened.append(path) or real(path, *a, **k)
    )
    data = slices(small_root, (16, 32))
    sampler = TwoStreamSampler(data.labelled, data.unlabelled, 2, 2, seed=(0, 0), steps=range(5))
    for batch in sampler:
        stacked = data.__getitems__(batch)
        assert stacked["image"].shape == (4, 1, 16, 32) and stacked["label"].shape == (2, 16, 32)
    assert len(opened) == len(set(opened)) == 6


def test_image_and_label_move_together(small_root):
    data = slices(small_root, (20, 24))
    data.kept[:3] = [
        (image, ((image[0] * 3).round().astype(np.uint8),)) for image, _ in data.kept[:3]
    ]
    for seed in range(20):
        item = data[Draw(seed % 3, (seed,))]
        assert np.array_equal((item["image"][0].numpy() * 3).round(), item["label"].numpy())


def test_volumes_carry_spacing_where_the_file_does(tmp_path):
    for name in ("a", "b"):
        image = np.arange(32, dtype=np.float32).reshape(2, 4, 4)
        path = write(
            tmp_path / "data" / f"{name}.h5", image=image, label=(image > 9).astype(np.uint8)
        )
    with h5py.File(path, "a") as file:
        file.attrs["spacing_mm"] = (10.0, 1.5, 1.25)
    (tmp_path / "val.list").write_text("a\nb\n")
    assert [case.spacing_mm for case in read_cases(ACDC, tmp_path, "val")] == [
        None,
        (10.0, 1.5, 1.25),
    ]


def test_channels_come_first_from_reading_on(tmp_path):
    """An RGB slice stored channels last, and a volume of two channels: image and label are turned,
    flipped and stacked together.
    """
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 9, (20, 24, 3)).astype(np.float32)
    info = replace(ACDC, channels=3, channel_axis=-1, file="{}.h5", slice_file=None)
    write(tmp_path / "p_1.h5", image=rgb, label=(rgb[..., 1] > 4).astype(np.uint8))
    image, label, _ = read_case(tmp_path / "p_1.h5", info, 2)
    assert np.array_equal(image, rgb.transpose(2, 0, 1)) and label.shape == (20, 24)
    data = Slices(
        info, tmp_path, ["p_1"], 1, 2 * (Augmentation((turn_or_rotate, resize((20, 20)))),)
    )
    batch = data.__getitems__([Draw(0, (seed,)) for seed in range(8)])
    assert batch["image"].shape == (8, 3, 20, 20)
    assert np.array_equal(batch["image"][:, 1] > 4, batch["label"] == 1)

    pair = rng.normal(size=(2, 9, 8, 7)).astype(np.float32)
    write(tmp_path / "v.h5", image=pair, label=np.zeros((9, 8, 7), np.uint8))
    case = read_volume(replace(LA, channels=2, file="{}.h5"), tmp_path / "v.h5", "v")
    assert np.array_equal(case.image, pair) and case.label.shape == (9, 8, 7)
    with pytest.raises(UserError, match=r"shape \(2, 9, 8, 7\), expected 3 dimensions"):
        read_volume(LA, tmp_path / "v.h5", "v")


def test_scale_is_about_the_middle_and_pads_with_zeros():
    class Draws:
        def __init__(self, factor) -> None:
            self.factor = factor

        def uniform(self, low, high):
            assert np.exp([low, high]) == pytest.approx([0.8, 1.25])
            return np.log(self.factor)

    row = np.array([[1, 2, 3, 4, 5]])
    # half the size: positions -2..2 about the middle read from -4, -2, 0, 2, 4; twice: from -1,
    # -0.5, 0, 0.5, 1, halves to the even one
    assert scale(Draws(0.5), (1, 5))(row).tolist() == [[0, 1, 3, 5, 0]]
    assert scale(Draws(2.0), (1, 5))(row).tolist() == [[2, 3, 3, 3, 4]]
    image = np.random.default_rng(0).random((2, 40, 40)).astype(np.float32)
    transform = scale(np.random.default_rng(0), (40, 40))
    assert (
        np.array_equal(transform(image)[1], transform(image[1]))
        and transform(image).dtype == np.float32
    )
    assert not np.array_equal(transform(image), image)


@pytest.mark.parametrize("name", sorted(INTENSITIES))
def test_intensity_transforms_change_images_alone(name):
    image, label = (
        np.random.default_rng(0).random((2, 8, 8)).astype(np.float32),
        np.eye(8, dtype=np.uint8),
    )
    augment = Augmentation((), (INTENSITIES[name],))
    views = augment(np.random.default_rng(3), image, label)
    changed, again, other = (
        views["image"],
        *(augment(np.random.default_rng(seed), image, label)["image"] for seed in (3, 4)),
    )
    assert (
        changed.dtype == np.float32 and changed.shape == image.shape and np.isfinite(changed).all()
    )
    assert (
        np.array_equal(views["label"], label)
        and np.array_equal(views["plain"], image)
        and np.array_equal(changed, again)
    )
    assert not np.array_equal(changed, image) and not np.array_equal(changed, other)
