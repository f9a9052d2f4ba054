"""What edge-guided modules ask of a feature, and dropout, against the plain formulas."""

import pytest
import torch

from networks import feature
from networks.dropout import Dropout
from networks.feature import Answers, MeanSigmoid, OverChannels, OverPixels, as_wide

LAYOUTS = {
    "2-D": torch.channels_last,
    "3-D": torch.channels_last_3d,
    "2-D, plain": torch.contiguous_format,
}


@pytest.fixture(params=LAYOUTS)
def layout(request):
    return LAYOUTS[request.param]


@pytest.fixture(params=[True, False], ids=["on the CPU", "elsewhere"])
def on_the_spot(request, monkeypatch):
    if not request.param:
        monkeypatch.setattr(feature, "_is_eager_cpu", lambda x: False)


def drawn(layout, channels=5):
    shape = (2, channels, 4, 6, 3) if layout == torch.channels_last_3d else (2, channels, 4, 6)
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return x.contiguous(memory_format=layout).requires_grad_()


def assert_same(ours, plain, *learnt):
    """Values, and gradients of a sum that weighs every number differently; those of a feature lie in memory as it does."""
    torch.testing.assert_close(ours, plain)
    weights = torch.empty_like(plain).normal_(generator=torch.Generator().manual_seed(1))
    gradients = torch.autograd.grad((ours * weights).sum(), learnt)
    torch.testing.assert_close(gradients, torch.autograd.grad((plain * weights).sum(), learnt))
    return gradients[0]


@pytest.mark.usefixtures("on_the_spot")
def test_mean_and_maximum_over_all_places(layout):
    x = drawn(layout)
    everywhere = tuple(range(2, x.ndim))
    gradient = assert_same(
        torch.cat(OverPixels.apply(x)), torch.cat([x.mean(everywhere), x.amax(everywhere)]), x
    )
    assert gradient.is_contiguous(memory_format=layout)


@pytest.mark.usefixtures("on_the_spot")
def test_maximum_and_mean_over_channels(layout):
    x = drawn(layout)
    gradient = assert_same(OverChannels.apply(x), torch.stack([x.max(1).values, x.mean(1)], 1), x)
    if feature._is_eager_cpu(x):
        assert gradient.is_contiguous(memory_format=layout)
    with torch.no_grad():
        torch.testing.assert_close(OverChannels.apply(x), torch.stack([x.amax(1), x.mean(1)], 1))


@pytest.mark.usefixtures("on_the_spot")
def test_the_gradient_of_a_channel_maximum_goes_to_the_first_of_equals():
    x = torch.tensor([[1.0, 3.0, 3.0], [0.0, 0.0, 0.0]]).view(2, 3, 1, 1).requires_grad_()
    values = OverChannels.apply(x)[:, 0]
    assert values.flatten().tolist() == [3.0, 0.0]
    (gradient,) = torch.autograd.grad((values * torch.tensor([2.0, 5.0]).view(2, 1, 1)).sum(), x)
    assert gradient.flatten().tolist() == [0, 2, 0, 5, 0, 0]


def test_mean_of_the_prediction(layout):
    x = drawn(layout)
    assert assert_same(
        MeanSigmoid.apply(x), torch.sigmoid(x).mean(1, keepdim=True), x
    ).is_contiguous(memory_format=layout)
    assert (
        MeanSigmoid.apply(x.bfloat16()).dtype == torch.float32
    )  # a mean of rounded numbers that is not rounded itself


def test_the_three_answers(layout):
    x = drawn(layout)
    s, e = (drawn(layout, channels=1) for _ in range(2))
    w, b = (
        torch.rand(1, 5, *[1] * (x.ndim - 2), dtype=torch.float64, requires_grad=True)
        for _ in range(2)
    )
    p = torch.sigmoid(x)
    plain = [x * (1 - p), x * (p - s), x * e]
    gradient = assert_same(Answers.apply(x, s, e, None, None), torch.cat(plain, 1), x, s, e)
    assert gradient.is_contiguous(memory_format=layout)
    p = torch.sigmoid(x)
    plain = [x * (1 - p), x * (p - s), x * (w * e + b)]
    assert_same(Answers.apply(x, s, e, w, b), torch.cat(plain, 1), x, s, e, w, b)


def test_in_half_precision_on_the_cpu_they_are_what_they_are_elsewhere(layout, monkeypatch):
    """Maps repeated for each channel, answers by `cat`: the same factors and sums, to bfloat16's 2 ** -8."""
    x = drawn(layout, channels=4).detach().bfloat16()
    one = drawn(layout, channels=1).detach().bfloat16()

    def answers():
        leaf, s = x.clone().requires_grad_(), one.clone().requires_grad_()
        results = (
            Answers.apply(leaf, s, one, None, None),
            OverChannels.apply(leaf),
            MeanSigmoid.apply(leaf),
            leaf * as_wide(one, leaf),
        )
        weights = torch.linspace(-1, 1, leaf.shape[-1]).bfloat16()
        return *results, *torch.autograd.grad(
            sum((y.float() * weights).sum() for y in results), (leaf, s)
        )

    here = answers()
    monkeypatch.setattr(feature, "_is_eager_cpu", lambda x: False)
    for ours, elsewhere in zip(here, answers(), strict=True):
        torch.testing.assert_close(ours, elsewhere, rtol=2**-6, atol=2**-6)


@pytest.mark.parametrize("rate", [0.05, 0.5, 1.0])
def test_dropout_drops_its_share_and_scales_what_it_keeps(rate, layout):
    x = (
        torch.ones(4, 8, *([40, 40] if layout != torch.channels_last_3d else [40, 8, 5]))
        .contiguous(memory_format=layout)
        .requires_grad_()
    )
    net = Dropout(rate)
    torch.manual_seed(0)
    y = net(x)
    assert y.is_contiguous(memory_format=layout)
    values = y.unique().tolist()
    assert values == ([0.0] if rate == 1 else pytest.approx([0.0, 1 / (1 - rate)], rel=1e-5))
    assert (y == 0).float().mean().item() == pytest.approx(
        rate, abs=0.01
    )  # of 51 200; five deviations at a rate of a half
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(gradient, y)
    again = net(x)
    assert rate == 1 or not torch.equal(again, y)
    torch.manual_seed(0)
    assert torch.equal(net(x), y)
    assert torch.equal(net.eval()(x), x)


def test_neighbours_are_dropped_independently():
    """Four numbers come of one draw; each quarter has the whole range."""
    torch.manual_seed(0)
    y = Dropout(0.3)(torch.ones(1, 1, 400, 400)).flatten() == 0
    quarters = y.view(-1, 4).float()
    torch.testing.assert_close(quarters.mean(0), torch.full((4,), 0.3), atol=0.015, rtol=0)
    assert (torch.corrcoef(quarters.t()) - torch.eye(4)).abs().max() < 0.03


def test_dropout_in_half_precision_and_of_odd_sizes():
    torch.manual_seed(0)
    y = Dropout(0.5)(torch.ones(3, 3, 3, 3, dtype=torch.bfloat16))
    assert y.dtype == torch.bfloat16 and set(y.unique().tolist()) == {0.0, 2.0}


def test_a_dropout_of_nothing_draws_nothing():
    x = torch.ones(5)
    state = torch.get_rng_state()
    assert torch.equal(Dropout(0.0)(x), x)
    assert torch.equal(torch.get_rng_state(), state)
