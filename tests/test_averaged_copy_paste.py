"""Averaged copy-paste: every piece by hand, and the averaged network as the one that is validated,
saved, tested and resumed beside.
"""

from types import SimpleNamespace

import helpers
import numpy as np
import pytest
import torch
from helpers import LOSS_2D, Context, Recorder, assert_same, signalled, step_loss
from scripts import export
from torch import nn

from commands.networks import build_network, load_network
from dataloaders.cases import read_cases
from datasets import acdc, la, pancreas
from evaluation.slices import SlicePredictor
from evaluation.validation import validate
from methods.averaged_copy_paste import AveragedPretrain, AveragedSelfTrain
from methods.base import halves
from networks.net_factory_ega import net_factory
from training.checkpoint import load, read
from utils.errors import Interrupted
from utils.pseudo_label import class_pseudo_label

pytestmark = pytest.mark.usefixtures("narrow")

PIECES = {
    "keep": "teacher", "ema_decay": 0.8, "teacher_mode": "eval", "teacher_view": "plain",
    "pseudo_weight": "probability", "pre_paste": "both", "paste": "one", "u_weight": 0.5,
}  # fmt: skip
TINY = {
    "method": "averaged_copy_paste", "patch_size": (32, 32), "batch_size": 4, "labeled_bs": 2, "pre_iterations": 6, "max_iterations": 8,
    "val_every": 4, "ema_decay": 0.9, "labelnum": 1,
}  # fmt: skip


def phase(kind, student=None, dataset=acdc.DATASET, **changes):
    return kind(
        Context(student or Recorder(), pasting=dataset.pasting, settings={**PIECES, **changes})
    )


def batch(n=4, size=32):
    torch.manual_seed(1)
    image = torch.rand(2 * n, 1, size, size)
    return {"image": image, "plain": 0.9 * image, "label": torch.randint(0, 4, (n, size, size))}


def train(root, output, *flags, **changes):
    return helpers.train(acdc.DATASET, root, output, *flags, **{**TINY, **changes})


@pytest.fixture(scope="module")
def uninterrupted(phantom_root, tmp_path_factory):
    return train(phantom_root, tmp_path_factory.mktemp("uninterrupted"))


def test_pretraining_averages_its_steps():
    """Three steps to 10, 20 and 30 from 5, at a decay of 0.8."""
    pretraining = phase(AveragedPretrain)
    for step in range(3):
        with torch.no_grad():
            pretraining.student.scale.fill_(10.0 * (step + 1))
        pretraining.after_step(step)
    assert pretraining.networks["ema_teacher"].scale.item() == pytest.approx(
        5 * 0.8**3 + 0.2 * (10 * 0.64 + 20 * 0.8 + 30)
    )


@pytest.mark.parametrize("pasted, images", [("both", 4), ("one", 2)])
def test_pretraining_pastes_both_ways(pasted, images):
    data = batch()
    image, label = data["image"][:4], data["label"]
    pretraining = phase(AveragedPretrain, pre_paste=pasted)
    loss = step_loss(pretraining, {"image": image, "label": label}, 3)
    mask = pretraining.copy_paste.mask(image, 3)
    (a, b), (label_a, label_b) = halves(image), halves(label)
    mixed = torch.cat([a * mask + b * (1 - mask), b * mask + a * (1 - mask)])[:images]
    torch.testing.assert_close(pretraining.student.seen[0], mixed)
    outside, inside = torch.cat([label_a, label_b])[:images], torch.cat([label_b, label_a])[:images]
    parts = LOSS_2D.mixed(pretraining.student(mixed), outside, inside, mask)
    torch.testing.assert_close(loss, (parts["dice"] + parts["ce"]) / 2)


@pytest.mark.parametrize(
    "dataset, order, outside",
    [(acdc.DATASET, 1, (True, False)), (pancreas.DATASET, -1, (True, False))],
)
def test_self_training_mixes_both_kinds_in_one_pass(dataset, order, outside):
    """By hand: where an image is unlabelled the pseudo label counts, half, times the probability
    that the teacher gives it.
    """
    dataset = SimpleNamespace(
        pasting=SimpleNamespace(**{**vars(dataset.pasting), "pseudo_label": class_pseudo_label})
    )
    assert dataset.pasting.unlabelled_outside == outside
    training, data = phase(AveragedSelfTrain, dataset=dataset), batch()
    loss = step_loss(training, data, 2)
    box = training.copy_paste.mask(data["image"], 2)
    labelled = torch.cat(data["image"][:4].split(2)[::order])
    label = torch.cat(data["label"].split(2)[::order])
    unlabelled, logits = data["image"][4:], Recorder()(data["plain"][4:])
    pseudo = class_pseudo_label(logits)()
    trust = logits.softmax(1).gather(1, pseudo[:, None])[:, 0]
    true = torch.cat(
        [(1 - box).expand(2, 32, 32), box.expand(2, 32, 32)]
    )  # the first half has the unlabelled image outside
    mixed = torch.where(true.bool()[:, None], labelled, unlabelled)
    (seen,) = training.student.seen
    torch.testing.assert_close(seen, mixed)
    answer = Recorder()(mixed)
    ce = nn.functional.cross_entropy
    sure = ((1 - true) * trust).sum()
    expected = (ce(answer, label, reduction="none") * true).sum() / true.sum()
    expected += 0.5 * (ce(answer, pseudo, reduction="none") * (1 - true) * trust).sum() / sure
    dice = LOSS_2D.dice(*_parts(answer, label), true) + 0.5 * LOSS_2D.dice(
        *_parts(answer, pseudo), (1 - true) * trust
    )
    torch.testing.assert_close(loss, (expected + dice) / 2)


def test_self_training_may_paste_both_ways():
    """Every pair twice, the second time with the mask turned about; the loss is that of the eight
    images together.
    """
    training, data = phase(AveragedSelfTrain, paste="both", pseudo_weight="one"), batch()
    loss = step_loss(training, data, 2)
    (labelled, unlabelled), box = data["image"].split(4), training.copy_paste.mask(data["image"], 2)
    true = torch.cat([(1 - box).expand(2, 32, 32), box.expand(2, 32, 32)])
    true = torch.cat([true, 1 - true])
    mixed = torch.where(
        true.bool()[:, None], labelled.repeat(2, 1, 1, 1), unlabelled.repeat(2, 1, 1, 1)
    )
    torch.testing.assert_close(training.student.seen[0], mixed)
    pseudo = class_pseudo_label(Recorder()(data["plain"][4:]))()
    parts = LOSS_2D.mixed(
        Recorder()(mixed), data["label"].repeat(2, 1, 1), pseudo.repeat(2, 1, 1), true, 1.0, 0.5
    )
    torch.testing.assert_close(loss, (parts["dice"] + parts["ce"]) / 2)


def test_the_teacher_keeps_the_statistics_of_images_as_they_are():
    """Of what its first layer makes of the unlabelled images, two hundredths a step; the student's,
    of mixed images, are not averaged in. Nothing is dropped, though batch norm is in training mode.
    """
    torch.manual_seed(0)
    student = nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5))
    training, data = phase(AveragedSelfTrain, student, teacher_mode="statistics"), batch()
    teacher = training.networks["ema_teacher"].eval()  # as a validation leaves it
    with torch.no_grad():
        features = teacher[0](data["plain"][4:])
    step_loss(training, data).backward()
    torch.testing.assert_close(teacher[1].running_mean, 0.02 * features.mean((0, 2, 3)))
    torch.testing.assert_close(teacher[1].running_var, 0.98 + 0.02 * features.var((0, 2, 3)))
    kept, weight = teacher[1].running_mean.clone(), student[0].weight.detach().clone()
    with torch.no_grad():
        student[0].weight += 1
    training.after_step(0)
    assert torch.equal(teacher[1].running_mean, kept) and not torch.equal(
        student[1].running_mean, kept
    )
    torch.testing.assert_close(teacher[0].weight, weight + 0.2)  # a fifth of the step
    labels = [training.trusted_pseudo_label(data["plain"][4:])()[1] for _ in range(2)]
    assert torch.equal(*labels)


def _parts(logits, label):
    probabilities = logits.softmax(1)
    return SimpleNamespace(probabilities=probabilities), nn.functional.one_hot(label, 4).permute(
        0, 3, 1, 2
    ).float()


def test_the_pseudo_label_is_the_plain_images_and_may_count_whole():
    training, data = phase(AveragedSelfTrain, pseudo_weight="one"), batch()
    teacher = training.networks["ema_teacher"]
    step_loss(training, data)
    assert torch.equal(teacher.seen[0], data["plain"][4:])
    _, trust = training.trusted_pseudo_label(data["image"][4:])()
    assert torch.equal(trust, torch.ones(4, 32, 32)) and not trust.requires_grad
    training.options.teacher_view = "same"
    step_loss(training, data)
    assert torch.equal(teacher.seen[-1], data["image"][4:])


def test_the_teacher_s_mode_is_set_at_every_step():
    """The loop validates it in eval mode, so a step after a validation would otherwise differ."""
    training = phase(AveragedSelfTrain, net_factory("unet", egm="none"), teacher_mode="train")
    training.networks["ema_teacher"].eval()
    step_loss(training, batch())
    assert training.networks["ema_teacher"].training
    training.options.teacher_mode = "eval"
    step_loss(training, batch())
    assert not training.networks["ema_teacher"].training


def test_the_averaged_network_is_what_test_and_export_read(uninterrupted, tmp_path):
    content = uninterrupted["self_train/unet_best_model.pth"]
    assert content["selected"] == "ema_teacher"
    path = tmp_path / "best.pth"
    torch.save(content, path)
    checkpoint = read(path)
    average, student = content["phase"]["ema_teacher"], content["student"]
    assert_same(dict(checkpoint.weights), dict(average))
    assert_same(dict(checkpoint.student), dict(student))
    assert not torch.equal(average["decoder.out_conv.weight"], student["decoder.out_conv.weight"])
    export([str(path), str(tmp_path / "out.pth")])
    assert any(
        torch.equal(value, average["decoder.out_conv.weight"])
        for value in load(tmp_path / "out.pth").values()
    )


def test_keeping_the_student_is_a_flag(phantom_root, tmp_path):
    content = train(
        phantom_root, tmp_path, "--keep", "student", pre_iterations=2, max_iterations=2
    )["self_train/last.pth"]
    assert content["selected"] == "student"


@pytest.mark.parametrize("kind, step", [(AveragedPretrain, 2), (AveragedSelfTrain, 5)])
def test_interrupted_it_resumes_bit_for_bit(
    phantom_root, tmp_path, monkeypatch, uninterrupted, kind, step
):
    with signalled(monkeypatch, kind, step), pytest.raises(Interrupted):
        train(phantom_root, tmp_path)
    assert_same(train(phantom_root, tmp_path), uninterrupted)


def test_the_score_is_the_averaged_network_s(phantom_root, tmp_path, uninterrupted):
    """The last validation of the file is what its averaged network scores now."""
    content = uninterrupted["self_train/last.pth"]
    torch.save(content, tmp_path / "last.pth")
    net = build_network(acdc.DATASET.info, "unet", {"egm": "none"})
    load_network(net, read(tmp_path / "last.pth"))
    cases = read_cases(acdc.DATASET.info, phantom_root, "val")
    names = acdc.DATASET.info.class_names
    result = validate(
        net, lambda: False, cases, SlicePredictor((32, 32), torch.device("cpu")).classes, names
    )
    assert result.score == content["progress"]["history"][-1]["score"]
    assert np.isfinite(result.score)


@pytest.mark.parametrize(
    "dataset, labelnum, flags",
    [
        (la.DATASET, 2, []),
        pytest.param(la.TWO_SLICES, 2, ["--labels", "dense"], marks=pytest.mark.long),
        pytest.param(pancreas.DATASET, 25, [], marks=pytest.mark.long),
    ],
)
def test_it_runs_on_volumes(dataset, labelnum, flags, la_root, pancreas_root, tmp_path):
    root = pancreas_root if dataset is pancreas.DATASET else la_root
    numbers = {
        "patch_size": (32, 32, 16),
        "val_stride": (32, 32, 16),
        "labelnum": labelnum,
        "batch_size": 4,
        "labeled_bs": 2,
    }
    numbers |= {
        "method": "averaged_copy_paste",
        "pre_iterations": 1,
        "max_iterations": 1,
        "val_every": 1,
    }
    last = helpers.train(dataset, root, tmp_path, *flags, **numbers)["self_train/last.pth"]
    assert last["selected"] == "ema_teacher"
    assert all(value.isfinite().all() for value in last["phase"]["ema_teacher"].values())
