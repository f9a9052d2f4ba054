import copy
import dataclasses

import numpy as np
import pytest
import torch
from helpers import LOSS_2D, Context, Recorder, step_loss, step_scalars
from torch import nn

from datasets import pancreas
from methods.bcp import BCPPretrain, BCPSelfTrain
from methods.copy_paste import CopyPaste, paste
from methods.edge_guided import DualTeacher, RefreshRule
from methods.supervised import Supervised
from networks.net_factory_ega import net_factory
from utils.pseudo_label import class_pseudo_label

pytestmark = pytest.mark.usefixtures("narrow")


def box(total=10, kind="dynamic"):
    return CopyPaste(kind, 1 / 3, total, seed=(3, 1))


def dual_teacher(student=None, **settings):
    torch.manual_seed(0)
    student = student or net_factory("unet", egm="none")
    return DualTeacher(Context(student, settings={"mask": "dynamic", "ema_decay": 0.9, **settings}))


def batch(n=4, size=32):
    torch.manual_seed(1)
    return {
        "image": torch.rand(2 * n, 1, size, size),
        "label": torch.randint(0, 4, (n, size, size)),
    }


def test_pretraining_pastes_the_second_half_into_the_first():
    net, data = Recorder(), batch(4)
    phase = BCPPretrain(Context(net, settings={"mask": "dynamic"}))
    loss = step_loss(phase, {"image": data["image"][:4], "label": data["label"]}, 3)
    mask = box().mask(data["image"], 3)
    assert (mask == 0).sum() == phase.take_logged()["box_side"] ** 2
    expected = data["image"][:2] * mask + data["image"][2:4] * (1 - mask)
    torch.testing.assert_close(net.seen[0], expected)
    parts = LOSS_2D.mixed(net(expected), data["label"][:2], data["label"][2:], mask)
    torch.testing.assert_close(loss, (parts["dice"] + parts["ce"]) / 2)


def test_self_training_step_as_the_paper_writes_it():
    """Unlabelled a outside and labelled a inside, labelled b outside and unlabelled b inside,
    pseudo labels weighted 0.5.
    """
    student, data = Recorder(), batch(4)
    phase = dual_teacher(student)
    loss = step_loss(phase, data, 7)
    (la, lb), (ya, yb), (ua, ub) = (
        data["image"][:4].split(2),
        data["label"].split(2),
        data["image"][4:].split(2),
    )
    mask = box().mask(la, 7)
    pa, pb = (class_pseudo_label(student(u))() for u in (ua, ub))
    mixed = ua * mask + la * (1 - mask), lb * mask + ub * (1 - mask)
    for seen, image in zip(student.seen[:2], mixed, strict=True):
        torch.testing.assert_close(seen, image)
    first = LOSS_2D.mixed(student(mixed[0]), pa, ya, mask, 0.5, 1.0)
    second = LOSS_2D.mixed(student(mixed[1]), yb, pb, mask, 1.0, 0.5)
    torch.testing.assert_close(
        loss, (first["dice"] + second["dice"] + first["ce"] + second["ce"]) / 2
    )


def test_the_unlabelled_loss_reaches_the_student_and_no_teacher():
    gradients = []
    for weight in (0.0, 0.5):
        phase = dual_teacher(u_weight=weight)
        teachers = copy.deepcopy(phase.teachers)
        torch.manual_seed(5)  # the same dropout for both weights
        step_loss(phase, batch()).backward()
        gradients.append([p.grad for p in phase.student.parameters()])
        for name, teacher in phase.teachers.items():
            before = teachers[name]
            assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
            assert all(
                torch.equal(a, b)
                for a, b in zip(before.parameters(), teacher.parameters(), strict=True)
            )
    assert all(g is not None for pair in gradients for g in pair)
    changed = [not torch.equal(a, b) for a, b in zip(*gradients, strict=True)]
    assert all(changed[-2:]) and sum(changed) > len(changed) / 2


def test_no_gradient_flows_through_the_pseudo_label():
    phase = dual_teacher(Recorder())
    assert not phase.pseudo_label(batch()["image"][4:6])().requires_grad


def test_the_pseudo_label_is_of_the_teachers_mean_logits():
    phase = dual_teacher(Recorder())
    first, second = phase.teachers.values()
    second.scale.data.fill_(-4.0)  # outvoted by 5
    image = batch()["image"][4:6]
    assert torch.equal(phase.pseudo_label(image)(), class_pseudo_label(first(image))())
    second.scale.data.fill_(-6.0)
    assert torch.equal(phase.pseudo_label(image)(), class_pseudo_label(second(image))())


def test_pseudo_label_keeps_the_largest_component_of_each_class():
    #  1 . 2     of class 1 the three pixels joined across the corner stay,
    #  . 1 2     of class 2 both, of the lone 1 on the lower right nothing
    #  1 . . 1
    label = torch.tensor([[1, 0, 2, 0], [0, 1, 2, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    expected = label.clone()
    expected[3, 3] = 0
    logits = nn.functional.one_hot(label, 4).permute(2, 0, 1)[None].float()
    assert torch.equal(class_pseudo_label(logits)()[0], expected)


def test_teachers_stay_in_training_mode_and_start_as_the_student():
    phase = dual_teacher()
    assert len(phase.teachers) == 2 and all(teacher.training for teacher in phase.teachers.values())
    with torch.no_grad():
        next(phase.student.parameters()).add_(1)
    phase.begin()
    for teacher in phase.teachers.values():
        assert all(
            torch.equal(a, b)
            for a, b in zip(teacher.parameters(), phase.student.parameters(), strict=True)
        )


def test_the_dynamic_teacher_follows_the_student_and_the_static_one_stays():
    phase = dual_teacher(Recorder())
    static, dynamic = phase.networks["static_teacher"], phase.networks["ema_teacher"]
    for step in range(5):
        with torch.no_grad():
            phase.student.scale.fill_(10.0 * (step + 1))
        phase.after_step(step)
    assert static.scale.item() == 5
    assert dynamic.scale.item() == pytest.approx(
        5 * 0.9**5 + sum(0.1 * 0.9 ** (4 - k) * 10 * (k + 1) for k in range(5))
    )
    for step in (0, 1):  # the interval is 2
        phase.after_iteration(step)
    assert static.scale.item() == 50


@pytest.mark.parametrize(
    "rule, improved, intervals",
    [
        (RefreshRule(1000, 500, 500, 2000), [True, True, True, False], [1500, 2000, 2000, 1500]),
        (RefreshRule(1000, 500, 500, 2000), [False, False, True], [500, 500, 1000]),
        (RefreshRule(10, 5, 5, 20), [True, False, False, False], [15, 10, 5, 5]),
    ],
)
def test_refresh_interval(rule, improved, intervals):
    interval, seen = rule.start, []
    for better in improved:
        interval = rule.next(interval, better)
        seen.append(interval)
    assert seen == intervals


def test_one_teacher_is_bcp():
    phase = dual_teacher(teachers="ema")
    assert list(phase.networks) == ["student", "ema_teacher"]
    assert "teacher_interval" not in step_scalars(phase, batch())
    bcp = BCPSelfTrain(Context(phase.student, settings={"mask": "dynamic"}))
    torch.manual_seed(5)
    expected = step_loss(phase, batch())
    torch.manual_seed(5)
    assert step_loss(bcp, batch()) == expected


def test_supervised_uses_the_labelled_images_alone():
    phase = Supervised(Context(net_factory("unet", egm="none")))
    data = batch()
    (loss,) = phase.losses({"image": data["image"][:4], "label": data["label"]}, 0)
    loss.total.backward()
    terms = loss.scalars["loss_dice"] + loss.scalars["loss_ce"]
    assert loss.total.item() == pytest.approx(terms.item() / 2)


def test_state_brings_the_phase_back():
    phase, other = dual_teacher(), dual_teacher()
    step_scalars(phase, batch())
    phase.after_step(0)
    phase.after_validation(improved=True)
    phase.after_iteration(0)
    other.load_state_dict(phase.state_dict())
    assert (other.interval, other.counter) == (3, 1)
    for name in phase.teachers:
        a, b = phase.teachers[name], other.teachers[name]
        assert all(
            torch.equal(x, y)
            for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
        )


def test_paste_takes_images_and_labels():
    mask = torch.tensor([[1.0, 0.0]])
    assert torch.equal(
        paste(torch.zeros(2, 1, 1, 2), torch.ones(2, 1, 1, 2), mask)[:, 0, 0],
        torch.tensor([[0.0, 1.0]] * 2),
    )
    assert (
        paste(torch.zeros(2, 1, 2).long(), torch.ones(2, 1, 2).long(), mask).tolist()
        == [[[0, 1]]] * 2
    )


def test_the_box_moves_with_the_step_alone():
    image = torch.zeros(1, 1, 64, 64)
    masks = [box(kind="fixed").mask(image, step) for step in (0, 1, 0)]
    assert torch.equal(masks[0], masks[2]) and not torch.equal(masks[0], masks[1])
    assert np.unique([int((m == 0).sum()) for m in masks]).tolist() == [42 * 42]


def test_pictures_show_the_last_mixed_image():
    phase = dual_teacher(Recorder())
    step_scalars(phase, batch())
    pictures = phase.pictures()
    assert {name: tuple(x.shape) for name, x in pictures.items()} == dict.fromkeys(
        ("image", "prediction", "label"), (32, 32)
    )
    assert torch.equal(pictures["prediction"], (3 * pictures["image"]).round().long())


def test_crossed_halves_of_the_pancreas_step():
    """Unlabelled a outside with labelled b inside, then labelled a outside with unlabelled b
    inside.
    """
    student, data = Recorder(), batch(4)
    pasting = dataclasses.replace(pancreas.DATASET.pasting, pseudo_label=class_pseudo_label)
    settings = {"mask": "dynamic", "teachers": "ema"}
    phase = DualTeacher(Context(student, LOSS_2D, pasting, "parameters", settings=settings))
    step_loss(phase, data, 2)
    (la, lb), (ua, ub), mask = (
        data["image"][:4].split(2),
        data["image"][4:].split(2),
        box().mask(data["image"], 2),
    )
    torch.testing.assert_close(student.seen[0], ua * mask + lb * (1 - mask))
    torch.testing.assert_close(student.seen[1], la * mask + ub * (1 - mask))
