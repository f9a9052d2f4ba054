"""Faster and smoother prediction: blended windows, skipped background, half precision, folded batch
norm, compiled networks.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from commands.fast_networks import CompiledNetwork, fast_network
from evaluation.slices import SlicePredictor
from evaluation.sliding_window import VolumePredictor
from evaluation.windows import Windows, axis_weights
from networks.norm import folded
from networks.registry import build
from utils.errors import UserError

CPU = torch.device("cpu")
NETWORKS = [
    ("unet", {"egm": "none"}, (2, 1, 32, 32)),
    ("unet", {"egm": "published"}, (2, 1, 80, 80)),
    ("VNet", {"egm": "none"}, (2, 1, 32, 32, 16)),
    ("VNet", {"egm": "published"}, (2, 1, 32, 32, 16)),
]


class Ramp(nn.Module):
    """Probabilities 0.9, 0.6333, 0.3667, 0.1 of class 1 in the four planes of a window."""

    def forward(self, x):
        share = torch.linspace(0.9, 0.1, 4).view(4, 1, 1).expand(len(x), 1, *x.shape[2:])
        return torch.cat([1 - share, share], 1).log()


class Counter(nn.Module):
    """Passes images on to a network, and counts them."""

    def __init__(self, net) -> None:
        super().__init__()
        self.net = net
        self.images = 0

    def forward(self, x):
        self.images += len(x)
        return self.net(x)


def trained_like(model, options) -> nn.Module:
    """A network in eval mode whose batch norm has statistics and weights as after training."""
    torch.manual_seed(0)
    net = build(model, 1, 3, options).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return net


def noise(*shape) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def test_gaussian_weights_fall_with_a_sigma_of_an_eighth_of_the_side():
    """Side 4: sigma 1/2, distances 3/2 and 1/2 from the centre."""
    far, near = math.exp(-4.5), math.exp(-0.5)
    assert axis_weights(4, "gaussian").tolist() == pytest.approx([far, near, near, far])


def test_a_voxel_under_two_windows_has_their_weighted_mean():
    """Windows of 4 planes at 0 and 2. Plane 2 is the third of the first window (probability 0.3667,
    weight exp(-1/2)) and the first of the second one (0.9, exp(-9/2)).
    """
    predictor = VolumePredictor((4, 1, 1), (2, 1, 1), CPU, blend="gaussian")
    probability = predictor.probability(Ramp(), np.zeros((1, 6, 1, 1), np.float32))[1]
    expected = (0.366667 * 0.606531 + 0.9 * 0.011109) / (0.606531 + 0.011109)
    assert probability[2, 0, 0].item() == pytest.approx(expected, abs=1e-5)


def test_uniform_windows_have_their_plain_mean():
    predictor = VolumePredictor((4, 1, 1), (2, 1, 1), CPU)
    probability = predictor.probability(Ramp(), np.zeros((1, 6, 1, 1), np.float32))[1]
    assert probability[2, 0, 0].item() == pytest.approx((0.366667 + 0.9) / 2, abs=1e-5)


def test_gaussian_windows_that_agree_change_no_probability():
    predictor = VolumePredictor((8, 6, 7), (3, 2, 4), CPU, blend="gaussian")
    image = noise(1, 13, 11, 10)
    net = nn.Conv3d(1, 3, 1)  # looks at one voxel, so all windows agree
    expected = net(torch.from_numpy(image)[None]).softmax(1)[0]
    torch.testing.assert_close(predictor.probability(net, image), expected)


def volume_with_background(value=0.0) -> np.ndarray:
    """Noise in one corner of 48 x 48 x 16 voxels, elsewhere one value."""
    image = np.full((1, 48, 48, 16), value, np.float32)
    image[:, :20, :18] = noise(1, 20, 18, 16)
    return image


def test_background_windows_are_those_that_hold_one_value():
    """Starts 0, 16 and 32 along x and y; noise up to plane 20 and row 18."""
    windows = Windows((48, 48, 16), (16, 16, 16), (16, 16, 16))
    assert windows.background(volume_with_background(-3.0)) == {
        (0, 32, 0),
        (16, 32, 0),
        (32, 0, 0),
        (32, 16, 0),
        (32, 32, 0),
    }


def test_windows_of_another_constant_value_are_not_background():
    image = np.zeros((1, 12, 4, 4), np.float32)
    image[:, 8:] = 1
    assert Windows(image.shape[1:], (4, 4, 4), (4, 4, 4)).background(image) == {
        (0, 0, 0),
        (4, 0, 0),
    }


@pytest.mark.parametrize(
    "model, value, mirror",
    [("VNet", 0.0, False), ("VNet_pancreas", -1.5, False), ("VNet", -1.5, True)],
)
def test_skipping_background_changes_no_probability(model, value, mirror):
    """Batch norm and instance norm; zero and another value; also where windows are flipped."""
    net = trained_like(model, {"egm": "none"})
    plain = VolumePredictor((32, 32, 16), (16, 16, 16), CPU, mirror=mirror)
    skipping = replace(plain, skip_background=True)
    image = volume_with_background(value)
    expected = plain.probability(net, image)
    torch.testing.assert_close(skipping.probability(net, image), expected, rtol=0, atol=2e-5)


def test_background_goes_through_the_network_once():
    """Four windows hold noise, and five only background."""
    net = Counter(nn.Conv3d(1, 2, 1))
    predictor = VolumePredictor((16, 16, 16), (16, 16, 16), CPU, skip_background=True)
    predictor.probability(net, volume_with_background())
    assert net.images == 4 + 1


def test_without_background_skipping_is_bit_identical():
    net = trained_like("VNet", {"egm": "none"})
    image = noise(1, 40, 33, 20)
    plain = VolumePredictor((32, 32, 16), (16, 16, 8), CPU)
    skipping = VolumePredictor((32, 32, 16), (16, 16, 8), CPU, skip_background=True)
    assert torch.equal(skipping.probability(net, image), plain.probability(net, image))


@pytest.mark.parametrize("model, options, shape", NETWORKS)
def test_a_folded_network_computes_the_same(model, options, shape):
    net = trained_like(model, options)
    images = torch.from_numpy(noise(*shape))
    with torch.inference_mode():
        torch.testing.assert_close(folded(net)(images), net(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("model, options, shape", NETWORKS)
def test_no_batch_norm_remains_in_a_folded_network(model, options, shape):
    net = folded(trained_like(model, options))
    assert not [m for m in net.modules() if isinstance(m, nn.BatchNorm2d | nn.BatchNorm3d)]


def test_folding_leaves_the_network_itself_as_it_is():
    net = trained_like("unet", {"egm": "none"})
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    folded(net)
    assert net.state_dict().keys() == before.keys()
    assert all(torch.equal(net.state_dict()[name], before[name]) for name in before)


def test_a_batch_norm_of_batch_statistics_is_not_folded():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)).eval()
    assert isinstance(folded(net)[1], nn.BatchNorm2d)


def test_half_precision_changes_probabilities_by_rounding_only():
    """bfloat16 has 8 significant bits."""
    net = trained_like("VNet", {"egm": "none"})
    image = noise(1, 40, 33, 16)
    exact = VolumePredictor((32, 32, 16), (16, 16, 16), CPU).probability(net, image)
    predictor = VolumePredictor((32, 32, 16), (16, 16, 16), CPU, amp=torch.bfloat16)
    half = predictor.probability(net, image)
    assert half.dtype == torch.float32
    difference = (half - exact).abs()
    assert 0 < difference.max() < 0.1 and difference.mean() < 0.01


def test_slices_are_predicted_in_half_precision():
    net = trained_like("unet", {"egm": "none"})
    image = noise(1, 3, 32, 32)
    exact = torch.cat(list(SlicePredictor((32, 32), CPU).slabs(net, image)), 1)
    half = torch.cat(list(SlicePredictor((32, 32), CPU, amp=torch.bfloat16).slabs(net, image)), 1)
    difference = (half - exact).abs()
    assert 0 < difference.max() < 0.1 and difference.mean() < 0.01


@pytest.mark.parametrize("images", [1, 3, 4])
def test_a_compiled_network_takes_smaller_batches_without_compiling_again(images):
    net = trained_like("unet", {"egm": "none"})
    compiled = CompiledNetwork(net, batch=4, backend="eager")
    batch = torch.from_numpy(noise(images, 1, 32, 32))
    with torch.inference_mode():
        torch.testing.assert_close(compiled(batch), net(batch), rtol=1e-4, atol=1e-4)


def test_a_compiled_network_that_computes_something_else_is_an_error():
    net = nn.Conv2d(1, 2, 1)
    compiled = CompiledNetwork(net, batch=2, backend="eager")
    compiled._compiled = nn.Conv2d(1, 2, 1)
    with torch.inference_mode(), pytest.raises(UserError, match="use --accelerate fold"):
        compiled(10 * torch.ones(1, 1, 4, 4))


def test_compiling_in_half_precision_on_the_cpu_is_refused():
    with pytest.raises(UserError, match="--accelerate fold, or --amp off"):
        fast_network(nn.Conv2d(1, 2, 1), "compile", CPU, batch=1, amp=torch.bfloat16)


@pytest.mark.long
def test_a_network_that_torch_compiles_predicts_the_same():
    net = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.BatchNorm3d(4), nn.Conv3d(4, 2, 1)).eval()
    image = noise(1, 20, 12, 10)
    predictor = VolumePredictor((8, 8, 8), (4, 4, 4), CPU, batch=4, blend="gaussian")
    compiled = fast_network(net, "compile", CPU, batch=4)
    expected = predictor.probability(net, image)
    torch.testing.assert_close(predictor.probability(compiled, image), expected, rtol=0, atol=1e-4)
