"""Training patches of volumes, their samplers and sliding windows."""

import itertools

import h5py
import numpy as np
import pytest
import torch
from helpers import KITS19, LA, LITS, PANCREAS
from torch import nn

from dataloaders.augment import Augmentation, VolumeAugmentation
from dataloaders.cases import read_cases, read_volume
from dataloaders.transforms import VolumeTransform
from dataloaders.two_stream import Draw, FourStreamSampler, TenfoldFourStreamSampler
from dataloaders.volumes import VolumePatches, first_cases, percent_of_cases
from datasets import pancreas
from datasets.resolve import resolve
from evaluation.sliding_window import VolumePredictor
from utils.errors import UserError

CPU = torch.device("cpu")


def test_transform_by_hand():
    """Turned, flipped, padded, cropped: one after the other with numpy's own functions."""
    volume = np.arange(6 * 4 * 3).reshape(6, 4, 3)
    transform = VolumeTransform(
        start=(1, 2, 0), patch_size=(4, 3, 3), margin=(1, 0, 2), quarter_turns=3, flip_axis=1
    )
    expected = np.pad(np.flip(np.rot90(volume, 3, axes=(0, 1)), 1), [(1, 1), (0, 0), (2, 2)])[
        1:5, 2:5, 0:3
    ]
    assert np.array_equal(transform(volume), expected)
    two = np.stack([volume, -volume])
    assert np.array_equal(transform(two), np.stack([expected, -expected]))


def test_cogrnet_crops_before_it_turns():
    """Same draw, other order: the patch is cut out of the padded volume as it lies and turned
    afterwards.
    """
    volume = np.arange(6 * 5 * 3).reshape(6, 5, 3)
    transform = VolumeTransform(
        start=(1, 2, 0),
        patch_size=(3, 4, 3),
        margin=(0, 1, 1),
        quarter_turns=1,
        flip_axis=0,
        crop_first=True,
    )
    expected = np.flip(
        np.rot90(np.pad(volume, [(0, 0), (1, 1), (1, 1)])[1:4, 2:6, 0:3], 1, axes=(0, 1)), 0
    )
    assert np.array_equal(transform(volume), expected) and transform(volume).shape == (4, 3, 3)


def test_a_patch_that_is_turned_after_the_crop_has_the_size_asked_for():
    augment, rng = VolumeAugmentation((6, 4, 2), spare=3, crop_first=True), np.random.default_rng(0)
    draws = [augment.draw(rng, (9, 9, 5)) for _ in range(40)]
    assert {draw.quarter_turns for draw in draws} == {0, 1, 2, 3}
    assert all(draw(np.zeros((9, 9, 5))).shape == (6, 4, 2) for draw in draws)


def test_large_scans_are_not_padded_and_every_place_is_drawn():
    augment, rng = VolumeAugmentation((4, 4, 4), spare=3), np.random.default_rng(0)
    draws = [augment.draw(rng, (6, 9, 5)) for _ in range(600)]
    assert (
        {d.margin for d in draws} == {(0, 0, 0)}
        and {d.quarter_turns for d in draws} == {0, 1, 2, 3}
        and {d.flip_axis for d in draws} == {0, 1}
    )
    straight = {d.start for d in draws if d.quarter_turns % 2 == 0}
    turned = {d.start for d in draws if d.quarter_turns % 2 == 1}
    assert straight == set(itertools.product(range(2), range(5), range(1)))  # [0, side - patch)
    assert turned == set(itertools.product(range(5), range(2), range(1)))


@pytest.mark.parametrize("spare, margins", [(3, (3, 4, 0)), (1, (1, 2, 0))])
def test_small_scans_are_padded_as_published(spare, margins):
    """Sides 8, 6, 20 for a patch of 8: (8 - side) // 2 + spare a side, never less than nothing."""
    transform = VolumeAugmentation((8, 8, 8), spare, turn=False).draw(
        np.random.default_rng(0), (8, 6, 20)
    )
    assert transform.margin == margins
    patch = transform(np.ones((8, 6, 20)))
    assert patch.shape == (8, 8, 8)


def test_centre_crop():
    transform = VolumeAugmentation((4, 4, 4), spare=1, turn=False, centre=True).draw(
        np.random.default_rng(0), (10, 8, 6)
    )
    assert (
        transform.start == (3, 2, 1)
        and transform.quarter_turns == 0
        and transform.flip_axis is None
    )


def patches(info, root, names, labelled, cache="ram", say=lambda message: None):
    draws = (
        VolumeAugmentation((32, 32, 16), spare=3).draw,
        VolumeAugmentation((32, 32, 16), spare=3, centre=True).draw,
    )
    return VolumePatches(
        info, root, names, labelled, tuple(Augmentation((draw,)) for draw in draws), say, cache
    )


def test_patches_are_the_same_with_and_without_cache(la_root):
    names, labelled = first_cases(la_root, LA, 2)
    said = []
    kept, anew = (
        patches(LA, la_root, names, labelled, "ram", said.append),
        patches(LA, la_root, names, labelled, "none"),
    )
    assert (
        "GiB" in said[0]
        and "--cache none" in said[0]
        and (kept.labelled, kept.unlabelled) == (2, 4)
    )
    for draw in (Draw(0, (1, 2)), Draw(5, (3, 4))):
        a, b = kept[draw], anew[draw]
        assert a.keys() == b.keys() == ({"image", "label"} if draw.case < 2 else {"image"})
        assert all(torch.equal(a[key], b[key]) for key in a) and a["image"].shape == (1, 32, 32, 16)


def test_labels_go_with_their_images(la_root):
    """Where the image's patch is put back, its label's patch lies on it: both are cut by one
    transform.
    """
    names, labelled = first_cases(la_root, LA, 1)
    data = patches(LA, la_root, names[:1], labelled)
    name, path = data.files[0]
    case = read_volume(LA, path, name)
    for seed in range(4):
        item = data[Draw(0, (seed,))]
        transform = data.augment[0].spatial[0](np.random.default_rng((seed,)), case.label.shape)
        assert (
            np.array_equal(item["label"].numpy(), transform(case.label))
            and item["label"].dtype == torch.uint8
        )


def test_labels_of_unlabelled_cases_are_never_opened(tmp_path, la_root):
    names, _ = first_cases(la_root, LA, 1)
    for name in names[:2]:
        path = LA.path(tmp_path, name)
        path.parent.mkdir(parents=True)
        with h5py.File(path, "w") as file, h5py.File(LA.path(la_root, name)) as source:
            file["image"] = source["image"][()]
            if name == names[0]:
                file["label"] = source["label"][()]
    assert len(patches(LA, tmp_path, names[:2], 1)) == 2
    with pytest.raises(UserError, match="no data set of numbers 'label'"):
        patches(LA, tmp_path, names[:2], 2)


@pytest.mark.parametrize("labelnum", [0, 7])
def test_label_counts_that_do_not_fit(la_root, labelnum):
    with pytest.raises(UserError, match=f"--labelnum {labelnum}: .* choose 1 to 6"):
        first_cases(la_root, LA, labelnum)


def test_pancreas_percentages(pancreas_root):
    names, labelled = percent_of_cases(pancreas_root, PANCREAS, 20)
    assert (len(names), labelled) == (8, 4)
    assert percent_of_cases(pancreas_root, PANCREAS, 25)[1] == 2
    with pytest.raises(UserError, match="--labelnum 10: percent"):
        percent_of_cases(pancreas_root, PANCREAS, 10)


def test_four_streams_by_hand():
    """3 labelled (0 1 2, five times) and 5 unlabelled (3 .. 7), two of each stream a step: 2 steps
    an epoch, then the same again.
    """
    sampler = FourStreamSampler(3, 5, 4, 4, (7,), range(4))
    assert sampler.epoch == 2
    batches = [[draw.case for draw in batch] for batch in sampler]
    assert (
        batches[0] == [0, 1, 2, 1, 3, 4, 7, 6]
        and batches[1] == [2, 0, 0, 2, 5, 6, 5, 4]
        and batches[2:] == batches[:2]
    )
    seeds = [draw.seed for batch in sampler for draw in batch]
    assert len(set(seeds)) == len(seeds)
    published = (
        FourStreamSampler(12, 50, 4, 4, (7,), range(1)).epoch,
        FourStreamSampler(12, 50, 4, 0, (7,), range(1)).epoch,
    )
    assert published == (25, 30)


def test_ten_percent_of_pancreas_are_read_ten_times_an_epoch():
    """6 labelled cases, 2 a step: 60 // 2 steps of pre-training; then the 56 unlabelled end it."""
    pretraining = TenfoldFourStreamSampler(6, 56, 4, 0, (7,), range(1))
    selftraining = TenfoldFourStreamSampler(6, 56, 4, 4, (7,), range(1))
    assert (pretraining.epoch, selftraining.epoch) == (30, 28)


@pytest.mark.parametrize("labelnum, repeats", [(10, 10), (20, 5), (50, 5)])
def test_pancreas_repeats_the_labelled_cases_as_published_for_the_percentage(labelnum, repeats):
    config = resolve(pancreas.DATASET, explicit={"labelnum": labelnum})
    assert pancreas.DATASET.sampler(config).repeats == repeats


def test_processes_share_the_streams():
    whole = FourStreamSampler(4, 4, 4, 4, (7,), range(1)).batch(0)
    parts = [FourStreamSampler(4, 4, 4, 4, (7,), range(1), rank, 2).batch(0) for rank in (0, 1)]
    assert [whole[i] for i in (0, 2, 4, 6)] == parts[0] and [
        whole[i] for i in (1, 3, 5, 7)
    ] == parts[1]


def test_volumes_in_memory_are_x_y_z(kits_root, lits_root):
    """KiTS19 and LiTS lie on disk slices first; kidney and tumour are one object, of the liver the
    tumour is not part; both are z-scored on reading.
    """
    for info, root in ((KITS19, kits_root), (LITS, lits_root)):
        name = (root / info.test_list).read_text(encoding="utf-8").split()[0]
        with h5py.File(info.path(root, name)) as file:
            image, label, spacing = file["image"][()], file["label"][()], file.attrs["spacing_mm"]
        case = read_cases(info, root, "test")[0]
        object_ = label > 0 if info is KITS19 else label == 1
        assert np.array_equal(case.label, object_.transpose(2, 1, 0)) and case.spacing_mm == tuple(
            spacing[::-1]
        )
        np.testing.assert_allclose(
            case.image[0], ((image - image.mean()) / image.std()).transpose(2, 1, 0), atol=1e-5
        )


class Net(nn.Module):
    """Answers by place and by what else the window holds, so that every window counts; keeps the
    windows it saw.
    """

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.seen = nn.Conv3d(1, 2, 3, padding=1), []

    def forward(self, x):
        self.seen += list(x.clone())
        return 5 * self.conv(x) + x.mean((2, 3, 4), keepdim=True)


def one_at_a_time(net, image, patch, stride):
    """The published loop: windows at min(i * stride, side - patch), probabilities added up and
    divided by their number.
    """
    pads = [
        ((max(p - s, 0)) // 2, max(p - s, 0) - max(p - s, 0) // 2)
        for s, p in zip(image.shape, patch, strict=True)
    ]
    padded = np.pad(image, pads)
    starts = [
        [min(i * step, side - p) for i in range(int(np.ceil((side - p) / step)) + 1)]
        for side, p, step in zip(padded.shape, patch, stride, strict=True)
    ]
    total, count = np.zeros((2, *padded.shape)), np.zeros(padded.shape)
    for corner in itertools.product(*starts):
        place = tuple(slice(c, c + p) for c, p in zip(corner, patch, strict=True))
        with torch.inference_mode():
            total[(slice(None), *place)] += (
                net(torch.from_numpy(padded[place])[None, None]).softmax(1)[0].numpy()
            )
        count[place] += 1
    inside = tuple(
        slice(before, side - after)
        for side, (before, after) in zip(padded.shape, pads, strict=True)
    )
    return (total / count)[(slice(None), *inside)]


@pytest.mark.parametrize(
    "shape, patch, stride, windows",
    [
        ((50, 41, 30), (32, 32, 16), (9, 9, 2), 3 * 2 * 8),
        (
            (20, 41, 15),
            (32, 32, 16),
            (18, 18, 4),
            1 * 2 * 1,
        ),  # smaller than the window on two sides
        ((130, 113, 88), (112, 112, 80), (18, 18, 4), 2 * 2 * 3),  # the published windows of LA
        (
            (97, 101, 110),
            (96, 96, 96),
            (16, 16, 4),
            2 * 2 * 5,
        ),  # and of the pancreas, where a naive overlap gives strides of 15 and 3
        ((32, 32, 16), (32, 32, 16), (4, 4, 4), 1),
        ((40, 40, 40), (32, 32, 16), (32, 32, 16), 2 * 2 * 3),
    ],
)
def test_sliding_windows_equal_the_loop(shape, patch, stride, windows):
    image, ours, loop = (
        np.random.default_rng(0).random(shape, np.float32),
        Net().eval(),
        Net().eval(),
    )
    probability = VolumePredictor(patch, stride, CPU, batch=3).probability(ours, image[None])
    np.testing.assert_allclose(
        probability.numpy(), one_at_a_time(loop, image, patch, stride), atol=1e-5
    )
    assert len(ours.seen) == len(loop.seen) == windows


class Threshold(nn.Module):
    def forward(self, x):
        return torch.cat([torch.zeros_like(x), x], 1)  # foreground where x > 0


def test_component_filter_keeps_the_largest():
    image = np.full((20, 20, 20), -5.0, np.float32)
    image[2:6, 2:6, 2:6] = image[10:12, 10:12, 10:12] = 5
    both = VolumePredictor((16, 16, 16), (8, 8, 8), CPU)(Threshold().eval(), image[None])
    one = VolumePredictor((16, 16, 16), (8, 8, 8), CPU, connectivity=26)(
        Threshold().eval(), image[None]
    )
    assert both.sum() == 64 + 8 and one.sum() == 64 and one[3, 3, 3] and one.dtype == np.uint8
