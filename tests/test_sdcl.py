"""SDCL: its correction terms by hand, its two students in training and test."""

import json
import math

import numpy as np
import pytest
import torch
from helpers import ACDC, Context, train
from scripts import evaluate, export
from torch import nn

import fewlabels
from commands.networks import network_of
from datasets import acdc
from methods import sdcl
from training.checkpoint import load, read
from utils.errors import UserError


def test_the_distance_is_the_mean_over_pixels_where_students_disagree():
    """p = (3/4, 1/4) at both pixels, label 1: (9/16 + 9/16) / 2 = 9/16. Only the second pixel
    counts, with its weight of 1/2.
    """
    logits = torch.tensor([math.log(3), 0.0]).view(1, 2, 1, 1).expand(1, 2, 1, 2)
    label = torch.ones(1, 1, 2, dtype=torch.long)
    weight = torch.tensor([[1.0, 0.5]])
    disagreement = torch.tensor([[[False, True]]])
    difference, _ = sdcl.correction(logits, label, weight=weight, disagreement=disagreement)
    assert float(difference) == pytest.approx(9 / 32)


def test_flatness_counts_only_pixels_where_this_student_is_wrong():
    """p = (3/4, 1/4) says class 0: right at the first pixel, wrong at the second. -mean log p =
    (log 4/3 + log 4) / 2 there.
    """
    logits = torch.tensor([math.log(3), 0.0]).view(1, 2, 1, 1).expand(1, 2, 1, 2)
    label = torch.tensor([[[0, 1]]])
    everywhere = torch.tensor([[[True, True]]])
    _, flatness = sdcl.correction(logits, label, weight=torch.ones(1, 2), disagreement=everywhere)
    assert float(flatness) == pytest.approx((math.log(4 / 3) + math.log(4)) / 2)


def test_students_that_agree_are_not_corrected():
    logits = torch.randn(2, 3, 4, 4)
    label = torch.randint(0, 3, (2, 4, 4))
    nowhere = torch.zeros(2, 4, 4, dtype=torch.bool)
    terms = sdcl.correction(logits, label, weight=torch.ones(4, 4), disagreement=nowhere)
    assert [float(term) for term in terms] == [0, 0]


def test_half_a_of_the_unlabelled_images_meets_half_b_of_the_labelled_ones():
    context = Context(
        nn.Conv2d(1, 4, 1), settings={"other_model": "resunet", "select_network": "mean"}
    )
    context.network = lambda number=0, model=None: nn.Conv2d(1, 4, 1)
    stage = sdcl.SDCL(context)
    images = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 1, 6, 6)
    batch = {"image": images, "label": torch.zeros(4, 6, 6, dtype=torch.long)}
    mask = torch.ones(6, 6)
    mask[0, 0] = 0
    first, second = stage.mixes(batch, mask)
    assert (float(first.image[0, 0, 1, 1]), float(first.image[0, 0, 0, 0])) == (4, 2)
    assert (float(second.image[0, 0, 1, 1]), float(second.image[0, 0, 0, 0])) == (0, 6)
    assert (first.weights, second.weights) == ((0.5, 1.0), (1.0, 0.5))


def test_the_teacher_averages_the_statistics_of_the_first_student():
    """Running means start at 0; the first student's becomes 5, the second one's 9: 0.99 x 0 + 0.01
    x 5.
    """
    network = nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4))
    context = Context(network, settings={"other_model": "resunet", "select_network": "mean"})
    stage = sdcl.SDCL(context)
    stage.networks["other"] = nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4))
    stage.student[1].running_mean.fill_(5)
    stage.networks["other"][1].running_mean.fill_(9)
    stage.after_step(0)
    torch.testing.assert_close(
        stage.networks["ema_teacher"][1].running_mean, torch.full((4,), 0.05)
    )


@pytest.fixture(scope="module")
def folder(narrow, phantom_root, tmp_path_factory):
    """A run of one step of each stage, which changes nothing but statistics."""
    output = tmp_path_factory.mktemp("sdcl")
    flags = ("--method", "sdcl", "--pre_iterations", 1, "--max_iterations", 1, "--val_every", 1)
    numbers = {"labelnum": 1, "patch_size": (32, 32), "batch_size": 4, "labeled_bs": 2}
    train(acdc.DATASET, phantom_root, output, *flags, "--base_lr", 0, **numbers)
    return output


def best(folder, stage):
    (path,) = folder.rglob(f"{stage}/unet_best_model.pth")
    return read(path)


def test_each_student_starts_from_the_pretrained_one_of_its_name(folder):
    before, after = best(folder, "pre_train"), best(folder, "self_train")
    key = "encoder.layer1.0.conv1.weight"
    assert torch.equal(before.weights_of("other")[key], after.weights_of("other")[key])
    key = "encoder.in_conv.conv_conv.0.weight"
    assert torch.equal(before.student[key], after.student[key])


def test_each_student_continues_with_the_moments_of_its_pretraining(folder):
    """One step of each stage: Adam has counted two."""
    after = best(folder, "self_train")
    for optimizer in (after.optimizer, after.other_optimizers["other"]):
        assert float(optimizer["state"][0]["step"]) == 2


def test_the_tested_network_is_the_mean_of_both_students(folder):
    checkpoint = best(folder, "self_train")
    assert checkpoint.selected == "mean"
    image = torch.rand(1, 1, 32, 32)
    softmaxes = []
    for name in ("student", "other"):
        member = network_of(checkpoint.of_network(name), ACDC, "unet", {"egm": "none"}).eval()
        softmaxes.append(member(image).softmax(1))
    mean = network_of(checkpoint, ACDC, "unet", {"egm": "none"}).eval()
    torch.testing.assert_close(mean(image).softmax(1), (softmaxes[0] + softmaxes[1]) / 2)


def test_it_is_tested_without_further_flags(folder, phantom_root):
    place = [f"--root_path={phantom_root}", f"--output_root={folder}", "--labelnum=1"]
    evaluate(acdc.DATASET, [*place, "--method=sdcl", "--device=cpu"])
    assert len(list(folder.rglob("metrics.csv"))) == 1


def test_the_test_of_another_network_goes_to_a_folder_of_its_own(folder, phantom_root):
    place = [f"--root_path={phantom_root}", f"--output_root={folder}", "--labelnum=1"]
    evaluate(acdc.DATASET, [*place, "--method=sdcl", "--device=cpu", "--network=other"])
    (results,) = folder.rglob("self_train_best_other_test/summary.json")
    summary = json.loads(results.read_text(encoding="utf-8"))
    assert (summary["made_with"]["network"], summary["network"]) == ("other", "other")


def test_an_array_is_predicted_with_the_named_network(folder):
    path = best(folder, "self_train").path
    image = np.random.default_rng(0).random((5, 32, 32))
    mean, student, other = [
        fewlabels.load_model(path, device="cpu", network=name)
        .predict(image, spacing=(1, 1, 1), probabilities=True)
        .probabilities
        for name in (None, "student", "other")
    ]
    assert np.allclose(mean, (student + other) / 2, atol=1e-5)
    assert not np.allclose(student, other, atol=1e-3)


def test_the_mean_is_not_exported_but_each_student_is(folder, tmp_path):
    checkpoint = best(folder, "self_train")
    with pytest.raises(UserError, match="--network"):
        export([str(checkpoint.path), str(tmp_path / "mean.pth")])
    export([str(checkpoint.path), str(tmp_path / "other.pth"), "--network=other"])
    exported = load(tmp_path / "other.pth")
    key = "encoder.layer1.0.conv1.weight"
    assert torch.equal(exported[key], checkpoint.weights_of("other")[key])


def test_a_network_that_a_checkpoint_does_not_hold_is_one_line(folder):
    with pytest.raises(UserError, match="choose from student, ema_teacher, other, mean"):
        best(folder, "self_train").of_network("teacher_a")
