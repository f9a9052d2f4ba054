"""The fast operations of networks/fast/ compute what the plain formulas do, with the same
gradients.
"""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from reference import fill_module, pieces

from networks import operations
from networks.egm import EdgeGuidedModule, EdgeMap
from networks.egm_3d import EdgeConv3d
from networks.fast import edge_guidance, matrices
from networks.net_factory_ega import net_factory
from networks.net_factory_la_ega import net_factory as net_factory_3d
from networks.operations import Dropout, Operation, plain_formulas

REPOSITORY = Path(__file__).parents[1]
LAYOUTS = {
    "2-D": torch.channels_last,
    "3-D": torch.channels_last_3d,
    "2-D, contiguous": torch.contiguous_format,
}
FAST = sorted(name for name, operation in Operation.all.items() if operation.fast)


def test_the_written_out_nearest_resize_equals_that_of_torch_for_all_sides_up_to_100():
    line = torch.arange(100.0)
    for old in range(1, 101):
        x = line[:old].reshape(1, 1, 1, old)
        for new in range(1, 101):
            expected = torch.nn.functional.interpolate(x, size=(1, new), mode="nearest")
            assert torch.equal(operations.resize_nearest(x, (1, new)), expected), (old, new)


@pytest.fixture(params=LAYOUTS)
def memory_format(request):
    return LAYOUTS[request.param]


@pytest.fixture(params=[True, False], ids=["on the CPU", "on other devices"])
def device_paths(request, monkeypatch):
    """Run the code of the CPU, or on the CPU the code that other devices run."""
    if not request.param:
        monkeypatch.setattr(edge_guidance, "is_eager_cpu", lambda x: False)
    return request.param


def feature(memory_format, channels=5):
    shape = (2, channels, 4, 6)
    if memory_format == torch.channels_last_3d:
        shape = (2, channels, 4, 6, 3)
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return x.contiguous(memory_format=memory_format).requires_grad_()


def map_of_one_channel(*sides):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2, 1, *sides, dtype=torch.float64, generator=generator).requires_grad_()


def gradients_of(result, leaves):
    """Gradients of a sum that weighs every number differently."""
    weights = torch.empty_like(result).normal_(generator=torch.Generator().manual_seed(1))
    return torch.autograd.grad((result * weights).sum(), leaves)


def assert_same(operation, arguments, leaves):
    """Compare values and gradients of both ways; return the fast gradients."""
    fast = operation.fast(*arguments)
    plain = operation.formula(*arguments)
    if isinstance(fast, tuple):
        fast, plain = torch.cat(fast), torch.cat(plain)
    torch.testing.assert_close(fast, plain)
    gradients = gradients_of(fast, leaves)
    torch.testing.assert_close(gradients, gradients_of(plain, leaves))
    return gradients


@pytest.mark.usefixtures("device_paths")
def test_mean_and_maximum_over_pixels(memory_format):
    x = feature(memory_format)
    (gradient,) = assert_same(operations.pool_pixels, (x,), [x])
    assert gradient.is_contiguous(memory_format=memory_format)


def test_maximum_and_mean_over_channels(memory_format, device_paths):
    x = feature(memory_format)
    (gradient,) = assert_same(operations.pool_channels, (x,), [x])
    assert gradient.is_contiguous(memory_format=memory_format) or not device_paths


def test_maximum_over_channels_without_gradients(memory_format):
    x = feature(memory_format).detach()
    torch.testing.assert_close(operations.pool_channels(x), operations.pool_channels.formula(x))


@pytest.mark.usefixtures("device_paths")
def test_the_gradient_of_a_channel_maximum_goes_to_the_first_of_equals():
    x = torch.tensor([[1.0, 3.0, 3.0], [0.0, 0.0, 0.0]]).view(2, 3, 1, 1).requires_grad_()
    largest = operations.pool_channels(x)[:, 0]
    (gradient,) = torch.autograd.grad((largest * torch.tensor([2.0, 5.0]).view(2, 1, 1)).sum(), x)
    assert gradient.flatten().tolist() == [0, 2, 0, 5, 0, 0]


def test_mean_sigmoid(memory_format):
    x = feature(memory_format)
    (gradient,) = assert_same(operations.mean_sigmoid, (x,), [x])
    assert gradient.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("way", ["fast", "formula"])
def test_mean_sigmoid_of_half_precision_is_not_rounded(way):
    x = torch.zeros(1, 3, 2, 2, dtype=torch.bfloat16)
    assert getattr(operations.mean_sigmoid, way)(x).dtype == torch.float32


@pytest.mark.usefixtures("device_paths")
def test_guided_features(memory_format):
    x = feature(memory_format)
    smooth = feature(memory_format, channels=1)
    edge = feature(memory_format, channels=1)
    gradients = assert_same(operations.guided_features, (x, smooth, edge), [x, smooth, edge])
    assert gradients[0].is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("channels", [128, 16])
@pytest.mark.usefixtures("device_paths")
def test_guided_features_of_volumes_fold_the_edge_convolutions(channels):
    torch.manual_seed(0)
    x = torch.randn(2, channels, 5, 6, 4, dtype=torch.float64).requires_grad_()
    smooth = map_of_one_channel(5, 6, 4)
    edge = map_of_one_channel(10, 12, 8)
    conv_adjust = EdgeConv3d(1, 128, 1).double()
    adjust = None
    leaves = [x, smooth, edge, *conv_adjust.parameters()]
    if channels != 128:
        adjust = EdgeConv3d(128, channels, 1).double()
        leaves += adjust.parameters()
    assert_same(operations.guided_features_3d, (x, smooth, edge, conv_adjust, adjust), leaves)


@pytest.mark.parametrize("channels, kernel", [(16, 3), (2, 7)])
def test_convolution_to_one_channel(channels, kernel):
    torch.manual_seed(0)
    conv = torch.nn.Conv3d(channels, 1, kernel, padding=kernel // 2).double()
    x = torch.randn(2, channels, 5, 8, 9, dtype=torch.float64).requires_grad_()
    assert_same(operations.convolve_to_one_channel, (x, conv), [x, *conv.parameters()])


@pytest.mark.parametrize("size", [(9, 9), (10, 13), (32, 48)])
@pytest.mark.parametrize("variant", ["published", "corrected"])
def test_smooth_part_of_slices(size, variant):
    g = map_of_one_channel(*size)
    assert_same(operations.smooth_part_2d, (g, variant), [g])


@pytest.mark.parametrize("size", [(4, 5, 7), (8, 6, 12)])
@pytest.mark.parametrize("variant", ["published", "corrected"])
def test_smooth_part_of_volumes(size, variant):
    g = map_of_one_channel(*size)
    assert_same(operations.smooth_part_3d, (g, variant), [g])


@pytest.mark.parametrize("size", [(7, 9), (20, 5), (6, 8)])
def test_bilinear_resize(size):
    x = map_of_one_channel(6, 8)
    assert_same(operations.resize_bilinear, (x, size), [x])


def test_bilinear_resize_of_features_off_the_cpu_uses_the_same_matrices():
    x = torch.rand(1, 3, 6, 8, dtype=torch.float64)
    arguments = {"device": x.device, "dtype": x.dtype}
    rows = matrices.matrix("linear", 6, 12, **arguments)
    columns = matrices.matrix("linear", 8, 16, **arguments)
    resized = matrices.both_axes(x, rows, columns)
    torch.testing.assert_close(resized, operations.resize_bilinear(x, (12, 16)))


def test_trilinear_resize_by_matrices():
    x = torch.rand(1, 2, 3, 4, 5, dtype=torch.float64)
    sizes = [matrices.matrix("linear", side, 2 * side, x.device, x.dtype) for side in (3, 4, 5)]
    expected = operations.resize_trilinear(x, (6, 8, 10))
    torch.testing.assert_close(matrices.all_axes(x, *sizes), expected)


def test_a_matrix_made_in_inference_mode_can_be_trained_with():
    with torch.inference_mode():
        operations.resize_bilinear(torch.rand(1, 1, 6, 5), (11, 17))
    x = torch.rand(1, 1, 6, 5, requires_grad=True)
    operations.resize_bilinear(x, (11, 17)).sum().backward()
    assert x.grad is not None


def test_half_precision_on_the_cpu_agrees_with_other_devices(memory_format, monkeypatch):
    """Maps repeated for each channel and `cat`: the same factors and sums, to bfloat16's 2 ** -8."""
    x = feature(memory_format, channels=4).detach().bfloat16()
    one = feature(memory_format, channels=1).detach().bfloat16()

    def results():
        leaf = x.clone().requires_grad_()
        smooth = one.clone().requires_grad_()
        values = (
            operations.guided_features(leaf, smooth, one),
            operations.pool_channels(leaf),
            operations.mean_sigmoid(leaf),
            operations.scale_pixels(leaf, one),
        )
        weights = torch.linspace(-1, 1, leaf.shape[-1]).bfloat16()
        total = sum((value.float() * weights).sum() for value in values)
        return *values, *torch.autograd.grad(total, (leaf, smooth))

    on_the_cpu = results()
    monkeypatch.setattr(edge_guidance, "is_eager_cpu", lambda x: False)
    for mine, other in zip(on_the_cpu, results(), strict=True):
        torch.testing.assert_close(mine, other, rtol=2**-5, atol=2**-5)


# dropout, which draws other numbers than torch's


def ones(memory_format):
    shape = (4, 8, 40, 40)
    if memory_format == torch.channels_last_3d:
        shape = (4, 8, 40, 8, 5)
    return torch.ones(shape).contiguous(memory_format=memory_format).requires_grad_()


@pytest.mark.parametrize("rate", [0.05, 0.5, 1.0])
def test_dropout_scales_what_it_keeps(rate, memory_format):
    torch.manual_seed(0)
    values = Dropout(rate)(ones(memory_format)).unique().tolist()
    assert values == ([0.0] if rate == 1 else pytest.approx([0.0, 1 / (1 - rate)], rel=1e-5))


@pytest.mark.parametrize("rate", [0.05, 0.5, 1.0])
def test_dropout_drops_its_share(rate, memory_format):
    """0.01 is five standard deviations of 51 200 draws at a rate of 0.5."""
    torch.manual_seed(0)
    dropped = Dropout(rate)(ones(memory_format)) == 0
    assert dropped.float().mean().item() == pytest.approx(rate, abs=0.01)


def test_the_gradient_of_dropout_is_its_factor(memory_format):
    x = ones(memory_format)
    y = Dropout(0.5)(x)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(gradient, y)
    assert y.is_contiguous(memory_format=memory_format)


def test_dropout_follows_the_seed():
    x = torch.ones(1000)
    draws = []
    for seed in (0, 1, 0):
        torch.manual_seed(seed)
        draws.append(Dropout(0.5)(x))
    assert torch.equal(draws[0], draws[2])
    assert not torch.equal(draws[0], draws[1])


def test_neighbours_are_dropped_independently():
    """Four numbers come from one draw; each quarter has the whole range."""
    torch.manual_seed(0)
    dropped = Dropout(0.3)(torch.ones(1, 1, 400, 400)).flatten() == 0
    quarters = dropped.view(-1, 4).float()
    torch.testing.assert_close(quarters.mean(0), torch.full((4,), 0.3), atol=0.015, rtol=0)
    assert (torch.corrcoef(quarters.t()) - torch.eye(4)).abs().max() < 0.03


def test_dropout_in_half_precision_and_of_odd_sizes():
    torch.manual_seed(0)
    y = Dropout(0.5)(torch.ones(3, 3, 3, 3, dtype=torch.bfloat16))
    assert set(y.unique().tolist()) == {0.0, 2.0}


@pytest.mark.parametrize("rate, training", [(0.0, True), (0.5, False)])
def test_an_inactive_dropout_draws_nothing(rate, training):
    x = torch.ones(5)
    state = torch.get_rng_state()
    assert torch.equal(Dropout(rate).train(training)(x), x)
    assert torch.equal(torch.get_rng_state(), state)


# whole networks


def test_every_fast_operation_is_named_by_its_formula():
    for name in FAST:
        assert Operation.all[name].fast.__name__ == name


def test_the_published_module_computed_by_plain_formulas():
    recorded = pieces()
    module = EdgeGuidedModule(16).eval()
    fill_module(module, "decoder.up4.ega.")
    with plain_formulas():
        result = module(recorded["egm_2d.feature"], EdgeMap()(recorded["egm_2d.image"]))
    torch.testing.assert_close(result, recorded["egm_2d.out"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("variant", ["published", "corrected"])
@pytest.mark.parametrize("dims", [2, 3])
def test_networks_compute_the_same_by_plain_formulas(dims, variant):
    torch.manual_seed(0)
    if dims == 2:
        net = net_factory("unet", egm=variant)
        image = torch.rand(1, 1, 80, 80, dtype=torch.float64)
    else:
        net = net_factory_3d("VNet", egm=variant)
        image = torch.rand(1, 1, 32, 32, 16, dtype=torch.float64)
    net = net.double().eval()
    fast = net(image)
    leaves = [p for p in net.parameters() if p.requires_grad]
    gradients = gradients_of(fast, leaves)
    with plain_formulas():
        plain = net(image)
        torch.testing.assert_close(gradients, gradients_of(plain, leaves))
    torch.testing.assert_close(fast, plain)


def test_networks_work_without_the_folder_of_fast_operations():
    code = """
import importlib.util
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name == "networks.fast" else find_spec(name, *more)
import sys, torch
from networks.net_factory_ega import net_factory
assert net_factory("unet")(torch.rand(1, 1, 80, 80)).shape == (1, 4, 80, 80)
assert "networks.fast" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True)
