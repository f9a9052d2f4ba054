import copy
import math

import numpy as np
import pytest
import torch
from reference import pieces

from methods.copy_paste import box_mask, box_sides, draw_corner
from networks.net_factory_ega import net_factory
from utils.ema import Ema, copy_state
from utils.schedules import consistency_weight, schedule, sigmoid_rampup

PIECES = pieces()


@pytest.mark.parametrize(
    "key, shape, end, times, total",
    [
        ("box.acdc_256_at_0_1_15000_29999_of_30000", (256,), 1 / 3, (0, 1, 15000, 29999), 30000),
        (
            "box.la_112_112_80_at_0_7500_14999_of_15000",
            (112, 112, 80),
            1 / 2,
            (0, 7500, 14999),
            15000,
        ),
        ("box.pancreas_96_at_epoch_1_100_200_of_200", (96,), 5 / 9, (1, 100, 200), 200),
    ],
)
def test_box_sides_as_published(key, shape, end, times, total):
    sides = [box_sides(shape, t, total, end) for t in times]
    assert np.array_equal(np.squeeze(sides), PIECES[key].numpy())


def test_fixed_box_keeps_two_thirds():
    assert {box_sides((256, 96), t, 100, 1 / 3, "fixed") for t in (0, 50, 100)} == {(170, 64)}


def test_box_mask_is_one_box_of_zeros_that_reaches_every_corner_start():
    corners = set()
    for seed in range(200):
        mask = box_mask((6, 5), (4, 3), draw_corner((6, 5), (4, 3), np.random.default_rng(seed)))
        zeros = torch.nonzero(mask == 0)
        assert len(zeros) == 12 and (zeros.amax(0) - zeros.amin(0)).tolist() == [3, 2]
        corners.add(tuple(zeros.amin(0).tolist()))
    assert corners == {(y, x) for y in range(2) for x in range(2)}


def test_ramp():
    assert sigmoid_rampup(0, 200) == pytest.approx(math.exp(-5))
    assert sigmoid_rampup(500, 200) == 1
    assert consistency_weight(15000) == pytest.approx(0.5 * math.exp(-1.25))


@pytest.mark.parametrize(
    "name, factors",
    [
        ("constant", [1, 1, 1, 1]),
        ("step", [1, 1, 0.1, 0.01]),
        ("poly", [1, 0.75**0.9, 0.5**0.9, 0]),
        ("poly_late", [1, 0.76**0.9, 0.51**0.9, 0.01**0.9]),
        ("two_drops", [1, 1, 0.1, 0.01]),
        ("cosine", [1, 0.853553, 0.5, 0]),
    ],
)
def test_learning_rates(name, factors):
    """At steps 0, 25, 50 and 100 of 100; a drop each 50."""
    factor = schedule(name, drop_every=50)
    assert [factor(step, 100) for step in (0, 25, 50, 100)] == pytest.approx(factors, abs=1e-6)


def test_the_late_poly_rate_stays_full_for_two_steps():
    assert [schedule("poly_late", drop_every=0)(step, 100) for step in (0, 1)] == [1, 1]


def test_two_drops_are_those_of_6000_iterations_after_2500_and_5000():
    factor = schedule("two_drops", drop_every=0)
    factors = [factor(step, 6000) for step in (2499, 2500, 4999, 5000, 5999)]
    assert factors == pytest.approx([1, 0.1, 0.1, 0.01, 0.01])


def test_step_without_drops_is_constant():
    assert schedule("step", drop_every=0)(10**6, 10**7) == 1


@pytest.mark.parametrize("scope", ["state", "parameters"])
def test_ema_against_the_plain_formula(scope):
    torch.manual_seed(0)
    student, teacher = net_factory("unet", egm="none"), net_factory("unet", egm="none")
    student(torch.rand(2, 1, 32, 32))  # moves the batch-norm statistics
    before, parameters = copy.deepcopy(teacher.state_dict()), dict(teacher.named_parameters())
    Ema(teacher, student, scope).update(0.9)
    for key, after in teacher.state_dict().items():
        expected = before[key]
        if scope == "state" or key in parameters:
            expected = (0.9 * before[key] + (1 - 0.9) * student.state_dict()[key]).to(after.dtype)
        torch.testing.assert_close(after, expected, rtol=1e-6, atol=1e-8)


def test_copy_state_copies_everything_and_shares_nothing():
    student, teacher = net_factory("unet", egm="none"), net_factory("unet", egm="none")
    student(torch.rand(2, 1, 32, 32))
    copy_state(teacher, student)
    assert all(
        torch.equal(a, b)
        for a, b in zip(teacher.state_dict().values(), student.state_dict().values(), strict=True)
    )
    with torch.no_grad():
        next(student.parameters()).add_(1)
    assert not torch.equal(next(teacher.parameters()), next(student.parameters()))
