"""Maps along an axis as matrices, against the plain formulas: convolutions with dense kernels, torch's own resizes."""

import math

import pytest
import torch
import torch.nn.functional as F

from benchmarks import acdc_step, plain, vnet_step
from networks.dropout import Dropout
from networks.egm import EdgeGuidedModule, smooth_part
from networks.egm_3d import smooth_part_3d
from networks.net_factory_ega import net_factory
from networks.resize import _cached_matrix, bilinear
from networks.unet_ega import Upsample


def double(*shape):
    return torch.rand(
        *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    ).requires_grad_()


def assert_same(fast, slow, x):
    """Values, and gradients of the sum of their squares."""
    torch.testing.assert_close(fast, slow)
    torch.testing.assert_close(*(torch.autograd.grad(y.square().sum(), x)[0] for y in (fast, slow)))


@pytest.mark.parametrize("size", [(9, 9), (10, 13), (32, 48)])
@pytest.mark.parametrize("aligned", [False, True])
def test_laplacian_band_2d(size, aligned):
    g, row = double(2, 1, *size), torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], dtype=torch.float64) / 16
    kernel = torch.outer(row, row)[None, None]
    small = F.conv2d(F.pad(g, [2] * 4, "reflect") if aligned else g, kernel)[..., ::2, ::2]
    spread = small.new_zeros(2, 1, 2 * small.shape[2], 2 * small.shape[3])
    spread[..., ::2, ::2] = small
    smooth = F.conv2d(F.pad(spread, [2] * 4, "reflect") if aligned else spread, 4 * kernel)
    plain = (
        smooth[..., : size[0], : size[1]]
        if aligned
        else F.interpolate(smooth, size=size, mode="nearest")
    )
    assert_same(smooth_part(g, "corrected" if aligned else "published"), plain, g)


@pytest.mark.parametrize("size", [(4, 5, 7), (8, 6, 12)])
@pytest.mark.parametrize("variant", ["published", "corrected"])
def test_laplacian_band_3d(size, variant):
    g, side = double(2, 1, *size), math.exp(-1 / (2 * 1.5**2))
    row = torch.tensor([side, 1.0, side], dtype=torch.float64)
    kernel = torch.einsum("i,j,k->ijk", row, row, row)[None, None] / (1 + 2 * side) ** 3
    small = F.conv3d(g, kernel, padding=1)[..., ::2, ::2, ::2]
    spread = small.new_zeros(2, 1, *(2 * side for side in small.shape[2:]))
    if variant == "corrected":
        spread[..., ::2, ::2, ::2] = small
        plain = F.conv3d(spread, 8 * kernel, padding=1)[..., : size[0], : size[1], : size[2]]
    else:
        spread[tuple(slice(side) for side in small.shape)] = small
        plain = F.interpolate(F.conv3d(spread, 4 * kernel, padding=1), size=size, mode="nearest")
    assert_same(smooth_part_3d(g, variant), plain, g)


def test_what_benchmarks_call_plain_is_the_published_band():
    for ours, dense, size in (
        (smooth_part, plain.band_2d, (17, 24)),
        (smooth_part_3d, plain.band_3d, (14, 7, 10)),
    ):
        g = torch.rand(2, 1, *size, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(dense(g), ours(g, "published"))


def test_networks_in_the_way_that_benchmarks_call_plain_compute_the_same():
    image, ours = double(1, 1, 80, 80), net_factory("unet").double().eval()
    with plain.plainly():
        logits = ours(image)
    assert_same(ours(image), logits, image)
    assert (
        EdgeGuidedModule.forward is not plain.module_2d
        and Dropout.forward is not torch.nn.Dropout.forward
    )


@pytest.mark.long
def test_a_step_of_acdc_is_timed_beside_a_busy_process(capsys):
    acdc_step.main(
        [
            "--patch_size",
            "80",
            "80",
            "--batch_size",
            "4",
            "--steps",
            "1",
            "--no_memory",
            "--neighbours",
            "1",
        ]
    )
    said = capsys.readouterr().out
    assert (
        said.count("whole step") == 2
        and "beside 1 busy" in said
        and said.splitlines()[-1].startswith("peak memory of the process")
    )


@pytest.mark.long
@pytest.mark.parametrize("kinds", ["both", "plain"])
def test_a_pass_of_the_v_net_is_timed(kinds, capsys):
    """The plain kind alone too: in a process of its own it finds nothing that the other has made."""
    _cached_matrix.cache_clear()
    vnet_step.main(
        ["--kinds", kinds, "--patch_size", "32", "32", "16", "--steps", "1", "--no_memory"]
    )
    assert "plain    forward" in capsys.readouterr().out


@pytest.mark.parametrize("size", [(7, 9), (20, 5), (6, 8)])
def test_bilinear(size):
    x = double(2, 3, 6, 8)
    assert_same(
        bilinear(x, size), F.interpolate(x, size=size, mode="bilinear", align_corners=True), x
    )


def test_the_decoders_doubling_is_the_same_on_every_device():
    """Elsewhere than on the CPU by matrices, which is what a device that computes nothing shows by its operations alone."""
    x = double(1, 2, 5, 4)
    assert_same(Upsample()(x), bilinear(x, (10, 8)), x)


def test_a_matrix_made_while_predicting_can_be_trained_with():
    with torch.inference_mode():
        bilinear(torch.rand(1, 1, 6, 5), (11, 17))
    x = torch.rand(1, 1, 6, 5, requires_grad=True)
    bilinear(x, (11, 17)).sum().backward()
    assert x.grad is not None
