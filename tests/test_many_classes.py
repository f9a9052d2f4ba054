"""Own data with many classes: samples drawn by class, Dice over the classes present, warnings about
classes that are lost.
"""

import itertools
import math

import numpy as np
import pytest
import torch

from dataloaders.augment import Augmentation, VolumeAugmentation
from dataloaders.foreground import MOST_VOXELS, SlicesByClass, VoxelsByClass
from dataloaders.samples import Samples
from dataloaders.transforms import VolumeTransform
from dataloaders.two_stream import Draw
from evaluation.validation import validate
from training.class_watch import ClassWatch, WatchedClasses, class_dice_line
from utils.case import Case
from utils.losses import Loss, Prediction, ce_sqrt, dice_3d, dice_present, one_hot

PRESENT = Loss({"dice_present": 1.0}, dice_3d)


# --- Dice over the batch and the classes present


def test_dice_over_the_batch_counts_only_classes_present_by_hand():
    """Two samples of two pixels, the last pixel masked away, no pixel of class 2.

    Class 0: overlap 1, sizes 1.5 + 1. Class 1: overlap 1.5, sizes 1.5 + 2.
    """
    p1 = torch.tensor([[[0.5, 0.0]], [[1.0, 0.5]]])  # (N, H, W)
    probabilities = torch.stack([1 - p1, p1, torch.zeros_like(p1)], 1)
    label = torch.tensor([[[1, 0]], [[1, 1]]])
    mask = torch.tensor([[[1.0, 1.0]], [[1.0, 0.0]]])
    prediction = Prediction(probabilities.log(), probabilities)
    loss = dice_present(prediction, one_hot(label, 3), mask)
    assert loss.item() == pytest.approx(1 - (2 / 2.5 + 3 / 3.5) / 2, abs=1e-5)


def test_dice_of_present_classes_leaves_absent_ones_alone():
    """In `dice_3d` a class that is absent from a sample is pushed down; here its logit changes only
    what the softmax leaves to the others.
    """
    logits = torch.zeros(2, 3, 2, 2, 2, requires_grad=True)
    label = torch.ones(2, 2, 2, 2).long()
    (PRESENT.whole(logits, label)["dice_present"]).backward()
    gradient = logits.grad
    assert gradient is not None
    torch.testing.assert_close(gradient[:, 0], gradient[:, 2])  # both are merely not class 1


def test_dice_of_an_empty_mask_is_zero():
    label = torch.ones(1, 2, 2, 2).long()
    parts = PRESENT.whole(torch.randn(1, 3, 2, 2, 2), label, mask=torch.zeros(2, 2, 2))
    assert parts["dice_present"].item() == 0


def test_dice_of_copy_pasted_images_counts_the_classes_of_each_part():
    """Outside is class 1, inside class 2, all logits equal: one class present in each part, of
    probability 1/3 on its half of the voxels, so Dice is 2 / 3 / (1 / 3 + 1) = 0.5 each.
    """
    mask = torch.tensor([[[1.0, 0.0]]])
    outside = torch.ones(1, 1, 1, 2).long()
    parts = PRESENT.mixed(torch.zeros(1, 3, 1, 1, 2), outside, 2 * outside, mask, 1.0, 0.5)
    assert parts["dice_present"].item() == pytest.approx(0.5 + 0.5 * 0.5, abs=1e-4)


def test_cross_entropy_weighs_classes_by_the_root_of_their_size_by_hand():
    """Four pixels of class 0 with probability 1/2 (weight 1/2 each) and one of class 1 with 1/4
    (weight 1); a sixth pixel is masked away.
    """
    p0 = torch.tensor([[[0.5, 0.5, 0.5, 0.5, 0.75, 0.1]]])
    probabilities = torch.stack([p0, 1 - p0], 1)
    truth = one_hot(torch.tensor([[[0, 0, 0, 0, 1, 0]]]), 2)
    mask = torch.tensor([[[1.0, 1, 1, 1, 1, 0]]])
    loss = ce_sqrt(Prediction(probabilities.log(), probabilities), truth, mask)
    assert loss.item() == pytest.approx((2 * math.log(2) + math.log(4)) / 3, abs=1e-6)


# --- samples drawn by class

WAYS = list(itertools.product(range(4), (None, 0, 1), (False, True), (0, 3)))


@pytest.mark.parametrize("turns, flip, crop_first, margin", WAYS)
def test_a_patch_holds_its_voxel_whatever_the_turn_and_flip(turns, flip, crop_first, margin):
    shape = (11, 7, 6)
    voxel = (9, 1, 5)
    scan = np.zeros(shape, np.uint8)
    scan[voxel] = 1
    transform = VolumeTransform(
        (0, 0, 0),
        patch_size=(4, 5, 3),
        margin=(margin,) * 3,
        quarter_turns=turns,
        flip_axis=flip,
        crop_first=crop_first,
    )
    rng = np.random.default_rng(3)
    for _ in range(20):
        assert transform.holding(voxel, shape, rng)(scan).sum() == 1


def two_organs():
    """A label (12, 12, 12) with a large class 1 and one voxel of class 4."""
    label = np.zeros((12, 12, 12), np.uint8)
    label[:9, :9, :9] = 1
    label[11, 0, 11] = 4
    return label


def drawn_classes(foreground, label, draws=2000):
    """The class of the voxel of each draw; None for those that are not drawn by class."""
    classes = []
    for seed in range(draws):
        choice = foreground.choose(0, np.random.default_rng(seed))
        classes.append(None if choice.voxel is None else int(label[choice.voxel]))
    return classes


def test_a_third_of_the_patches_is_drawn_by_class_and_rare_classes_as_often_as_large_ones():
    """2 000 draws: expected are 330 of each class, with a standard deviation of 17."""
    foreground = VoxelsByClass(share=0.33)
    foreground.add(two_organs())
    classes = drawn_classes(foreground, two_organs())
    assert abs(classes.count(1) - 330) < 60
    assert abs(classes.count(4) - 330) < 60
    assert classes.count(None) == 2000 - classes.count(1) - classes.count(4)


def test_a_volume_without_foreground_is_drawn_anywhere():
    foreground = VoxelsByClass(share=1.0)
    foreground.add(np.zeros((4, 4, 4), np.uint8))
    assert foreground.choose(0, np.random.default_rng(0)) == (0, None)


def test_the_index_keeps_ten_thousand_voxels_of_a_class_from_all_over_it():
    foreground = VoxelsByClass(share=1.0)
    foreground.add(np.ones((40, 40, 40), np.uint8))
    ((kept,),) = foreground._voxels
    assert len(kept) == MOST_VOXELS == 10_000
    assert kept[0] == 0 and kept[-1] == 40**3 - 1


def test_slices_are_drawn_by_class():
    """Three slices, one of them with the rare class 2: with share 1 half of the samples are it."""
    foreground = SlicesByClass(share=1.0)
    for classes in ((1,), (1,), (0, 2)):
        foreground.add(np.array([classes], np.uint8))
    cases = [foreground.choose(0, np.random.default_rng(seed)).case for seed in range(1000)]
    assert abs(cases.count(2) - 500) < 60
    assert set(cases) == {0, 1, 2}


class OneVolume(Samples):
    """A labelled volume and an unlabelled one of the same voxels, cut to 4 x 4 x 4."""

    def __init__(self, share):
        draw = VolumeAugmentation((4, 4, 4), spare=3).draw
        self.augment = (Augmentation((draw,)), Augmentation((draw,)))
        self.labelled = 1
        label = two_organs()
        image = np.arange(label.size, dtype=np.float32).reshape(1, *label.shape)
        self.kept = [(image, (label,)), (image, ())]
        if share:
            self.foreground = VoxelsByClass(share)
            self.foreground.add(label)


def test_patches_that_are_drawn_by_class_hold_it():
    """With share 1 half of the patches hold the one voxel of class 4; without, hardly any does."""
    draws = [Draw(0, (7, step)) for step in range(200)]
    with_class = OneVolume(1.0).__getitems__(draws)["label"]
    without = OneVolume(0).__getitems__(draws)["label"]
    held = (with_class == 4).flatten(1).any(1).float().mean().item()
    assert abs(held - 0.5) < 0.12
    assert (without == 4).flatten(1).any(1).float().mean().item() < 0.05


def test_unlabelled_patches_and_those_not_drawn_by_class_stay_as_they_were():
    draws = [Draw(case, (7, step)) for step in range(60) for case in (0, 1)]
    some = OneVolume(0.33)
    plain = OneVolume(0)
    same = [torch.equal(some[draw]["image"], plain[draw]["image"]) for draw in draws]
    assert all(same[1::2])  # unlabelled
    assert 30 <= sum(same[::2]) <= 50  # 2/3 of 60 are expected


def test_a_batch_drawn_by_class_follows_from_its_draws():
    draws = [Draw(0, (7, step)) for step in range(20)]
    first = OneVolume(0.5).__getitems__(draws)
    again = OneVolume(0.5)
    again.__getitems__(draws[:3])  # what was drawn before changes nothing
    assert torch.equal(first["image"], again.__getitems__(draws)["image"])


# --- warnings about classes that are lost

TWO = WatchedClasses({1: "liver", 2: "left kidney"}, ("liver", "left kidney"))


def test_a_class_that_vanishes_from_the_pseudo_labels_is_warned_about_once():
    """The kidney is there in iteration 50 for the last time; in a stage of 1 000 iterations 100
    without it are too many.
    """
    watch = ClassWatch(TWO, steps=1000)
    warned = {}
    for step in range(1, 400):
        kidney = 0.01 if step <= 50 else 0.0
        warnings = watch.look_at_step({"pseudo_share_1": 0.2, "pseudo_share_2": kidney})
        if warnings:
            warned[step] = warnings
    assert list(warned) == [150]
    (warning,) = warned[150]
    assert "left kidney: not in the pseudo labels of the last 100 iterations" in warning


def test_a_class_may_be_absent_for_a_twentieth_of_a_long_stage():
    watch = ClassWatch(TWO, steps=10_000)
    warned = [step for step in range(1, 600) if watch.look_at_step({"pseudo_share_2": 0.0})]
    assert warned == [500]


def test_steps_without_pseudo_labels_warn_about_nothing():
    watch = ClassWatch(TWO, steps=100)
    assert not any(watch.look_at_step({"loss": 1.0}) for _ in range(300))


def test_five_validations_with_dice_zero_warn_once():
    watch = ClassWatch(TWO, steps=1000)
    scores = [0.0, 0.0, 0.1] + [0.0] * 7
    history = []
    warned = []
    for kidney in scores:
        history.append({"dice_liver": 0.0 if len(history) < 4 else 0.9, "dice_left_kidney": kidney})
        for warning in watch.look_at_validations(history):
            warned.append((len(history), warning.split(":")[1].strip()))
    assert warned == [(8, "left kidney")]


def test_a_validation_has_the_dice_of_each_class_for_the_log():
    """Two cases, predicted as they are except for class 2, which is never found."""
    label = np.array([[[0, 1, 2]]], np.uint8)
    cases = [Case(str(number), label[None].astype(np.float32), label) for number in range(2)]

    def classes(net, image):
        prediction = torch.as_tensor(image[0]).long()
        return prediction * (prediction < 2)

    result = validate(
        torch.nn.Identity(),
        lambda: False,
        cases,
        classes,
        class_names=("background", "liver", "left kidney"),
        distances=False,
    )
    assert result is not None
    assert result.class_dice == {"liver": 1.0, "left kidney": 0.0}
    assert class_dice_line(result) == "val Dice by class: liver 1.0000, left kidney 0.0000"
