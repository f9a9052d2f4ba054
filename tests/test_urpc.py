"""URPC's perturbations, side heads and loss, by hand."""

import math

import pytest
import torch

from methods.urpc import rectified_consistency
from networks import urpc
from networks.registry import build


def test_positions_that_reach_a_share_of_the_largest_activity_are_dropped(monkeypatch):
    """Means over the two channels: 1, 4 and 5; of the second sample 2, 1 and 0.

    Kept are those below 0.8 times the largest.
    """
    monkeypatch.setattr(urpc, "kept_activity", lambda x: 0.8)
    x = torch.tensor([[[1.0, 3.0, 5.0], [1.0, 5.0, 5.0]], [[2.0, 1.0, 0.0], [2.0, 1.0, 0.0]]])
    kept = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]])
    assert torch.equal(urpc.drop_active_positions(x), x * kept[:, None])


def test_the_share_of_activity_lies_between_07_and_09():
    torch.manual_seed(0)
    shares = [float(urpc.kept_activity(torch.zeros(1))) for _ in range(200)]
    assert 0.7 <= min(shares) < 0.71
    assert 0.89 < max(shares) <= 0.9


def test_relative_noise_is_the_same_for_all_samples_and_at_most_03():
    torch.manual_seed(0)
    x = torch.ones(2, 3, 20, 20)
    noisy = urpc.add_relative_noise(x)
    assert torch.equal(noisy[0], noisy[1])
    assert 0.29 < (noisy - 1).abs().max() <= 0.3
    assert not torch.equal(noisy[0, 0], noisy[0, 1])


@pytest.mark.parametrize("name, dims", [("unet_urpc", 2), ("VNet_urpc", 3)])
def test_side_logits_have_the_size_of_the_input_and_are_nearest_neighbours(name, dims):
    net = build(name, 1, 3, {}).eval()
    x = torch.rand(2, 1, *[32] * dims)
    logits = net(x, auxiliary=True)
    assert [tuple(one.shape) for one in logits] == [(2, 3, *x.shape[2:])] * 4
    assert torch.equal(logits[0], net(x))
    for factor, side in zip((2, 4, 8), logits[1:], strict=True):
        corner = side[(..., *[slice(factor)] * dims)]
        assert torch.equal(corner, corner[(..., *[slice(1)] * dims)].expand_as(corner))


def test_perturbations_reach_neither_the_result_nor_an_evaluation(monkeypatch):
    net = build("unet_urpc", 1, 3, {})
    x = torch.rand(2, 1, 32, 32)
    net.eval()
    expected = net(x, auxiliary=True)
    monkeypatch.setattr(urpc, "kept_activity", lambda x: 0.0)  # nothing would be kept
    monkeypatch.setattr(urpc, "relative_noise", lambda x: torch.full(x.shape[1:], -1.0))
    for one, other in zip(net(x, auxiliary=True), expected, strict=True):
        assert torch.equal(one, other)
    net.decoder.training = True  # the side heads only, not the dropout and batch norm below
    main, finest, middle, coarsest = net(x, auxiliary=True)
    assert torch.equal(main, expected[0])
    assert torch.equal(coarsest, expected[3])  # its dropout is in evaluation mode
    for number, side in ((1, finest), (2, middle)):
        bias = net.decoder.get_submodule(f"out_conv_dp{number}").bias
        assert torch.equal(side, bias[None, :, None, None].expand_as(side))


def test_the_rectified_consistency_by_hand():
    """Two levels of one pixel: (0.5, 0.5) and (0.9, 0.1), whose mean is (0.7, 0.3)."""
    levels = [torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.9, 0.1]]).log()]
    first = 0.7 * math.log(0.7 / 0.5) + 0.3 * math.log(0.3 / 0.5)
    second = 0.7 * math.log(0.7 / 0.9) + 0.3 * math.log(0.3 / 0.1)
    expected = 0.04 + (first + second) / 2  # of one pixel, exp(-v) cancels
    assert rectified_consistency(levels).item() == pytest.approx(expected, rel=1e-5)


def test_the_gradient_flows_through_the_mean_and_through_the_trust():
    """Finite differences see the whole loss; a detached part would be missing from the gradient."""
    torch.manual_seed(0)
    levels = [torch.randn(2, 3, 2, dtype=torch.float64, requires_grad=True) for _ in range(4)]
    assert torch.autograd.gradcheck(lambda *logits: rectified_consistency(logits), levels)


def test_uncertain_pixels_count_less():
    """Of two pixels, only the second one's levels differ; the trust of the first is 1."""
    levels = [
        torch.tensor([[[0.5, 0.5], [0.5, 0.5]]]).log(),
        torch.tensor([[[0.5, 0.9], [0.5, 0.1]]]).log(),
    ]
    divergences = [
        0.7 * math.log(0.7 / 0.5) + 0.3 * math.log(0.3 / 0.5),
        0.7 * math.log(0.7 / 0.9) + 0.3 * math.log(0.3 / 0.1),
    ]
    expected = 0.0
    for v in divergences:
        trust = math.exp(-v)
        expected += (0.04 * trust / 2) / ((1 + trust) / 2) + v / 2
    assert rectified_consistency(levels).item() == pytest.approx(expected / 2, rel=1e-5)


def test_probabilities_that_round_to_0_leave_a_finite_loss():
    logits = torch.tensor([[200.0, 0.0]], requires_grad=True)
    loss = rectified_consistency([logits, 2 * logits])
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.isfinite().all()
