import pytest
import torch
import torch.nn.functional as F
from reference import fill, fill_module, filled_state_dict, laplacian_band, pieces, published_shapes

from networks.egm_3d import EdgeGuidedModule3d, EdgeMap3d
from networks.net_factory_la_ega import net_factory
from networks.operations import convolve_to_one_channel, smooth_part_3d
from networks.published_weights import import_state_dict

PIECES = pieces()
PUBLISHED = [
    ("vnet_la", "VNet", "published"),
    ("vnet_la", "VNet", "corrected"),
    ("vnet_pancreas", "VNet_pancreas", "published"),
]
PUBLISHED += [("vnet_cogrnet", "VNet", "none"), ("vnet_pancreas_bcp", "VNet_pancreas", "none")]


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.fixture
def edge_map():
    module = EdgeMap3d()
    for name, parameter in module.conv_adjust.named_parameters():
        parameter.data.copy_(fill(f"compute_edge_feature.conv_adjust.{name}", parameter.shape))
    return module


def test_laplacian_band_as_published():
    close(laplacian_band(PIECES["laplacian_3d.pred"]), PIECES["laplacian_3d.out"])


def test_sobel_magnitude_as_published(edge_map):
    edge = edge_map(PIECES["sobel_3d.image"])
    close(edge, PIECES["sobel_3d.magnitude"])
    close(edge_map.conv_adjust(edge)[:, :4], PIECES["sobel_3d.first_4_channels"])


@pytest.mark.parametrize("channels, prefix", [(128, "decoder.ega."), (16, "decoder.ega_3.")])
def test_edge_guided_module_as_published(edge_map, channels, prefix):
    egm = EdgeGuidedModule3d(channels).eval()
    fill_module(egm, prefix)
    piece = {key: PIECES[f"egm_3d_{channels}.{key}"] for key in ("feature", "image", "out")}
    close(egm(piece["feature"], edge_map(piece["image"]), edge_map.conv_adjust), piece["out"])


@pytest.mark.parametrize("channels", [128, 32])
@pytest.mark.parametrize("variant", ["published", "corrected"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_module_equals_the_plain_formula_with_its_gradients(channels, variant, layout):
    """Folded edge path, one-channel band, recomputed answers: values and gradients are those of the
    published chain of layers.
    """
    torch.manual_seed(0)
    egm, conv_adjust = (
        EdgeGuidedModule3d(channels, variant, 0.0, 0.0).double(),
        EdgeMap3d().conv_adjust.double(),
    )
    x, edge = torch.randn(2, channels, 5, 6, 4).double(), torch.rand(2, 1, 10, 12, 8).double()

    def plain(x):
        p = torch.sigmoid(x)
        e = F.interpolate(conv_adjust(edge), size=x.shape[-3:], mode="nearest")
        e = e if channels == 128 else egm.get_submodule(f"adjust_128_to_{channels}")(e)
        fused = egm.fusion_conv(torch.cat([x * (1 - p), x * laplacian_band(p, variant), x * e], 1))
        x = egm.cbam.ChannelGate(fused * egm.attention(fused) + x)
        return x * torch.sigmoid(
            egm.cbam.SpatialGate.spatial(
                torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], 1)
            )
        )

    learning = [p for p in (*egm.parameters(), *conv_adjust.parameters()) if p.requires_grad]
    results = []
    for function in (lambda x: egm(x, edge, conv_adjust), plain):
        leaf = x.clone(memory_format=layout).requires_grad_()
        out = function(leaf)
        results.append((out, *torch.autograd.grad(out.square().sum(), [leaf, *learning])))
    for fast, slow in zip(*results, strict=True):
        torch.testing.assert_close(fast, slow)


@pytest.mark.parametrize("channels, kernel", [(16, 3), (2, 7)])
def test_one_channel_convolution_by_planes(channels, kernel):
    torch.manual_seed(0)
    conv, x = (
        torch.nn.Conv3d(channels, 1, kernel, padding=kernel // 2).double(),
        torch.randn(2, channels, 5, 8, 9).double(),
    )
    results = []
    for function in (lambda x: convolve_to_one_channel(x, conv), conv):
        leaf = x.clone().requires_grad_()
        out = function(leaf)
        results.append((out, *torch.autograd.grad(out.square().sum(), [leaf, *conv.parameters()])))
    for fast, slow in zip(*results, strict=True):
        torch.testing.assert_close(fast, slow)


def test_corrected_band_and_edges():
    """On a ramp a right band averages to zero inside and all edges are equally strong; published,
    the band lives in one octant alone.
    """
    ramp = torch.arange(16.0).view(16, 1, 1).expand(1, 1, 16, 16, 16) / 16
    inside = (..., slice(4, -4), slice(4, -4), slice(4, -4))
    means = {
        v: F.avg_pool3d(laplacian_band(ramp, v), 2)[..., 2:-2, 2:-2, 2:-2].abs().max()
        for v in ("published", "corrected")
    }
    assert means["corrected"] < 0.04 and means["published"] > 0.4
    assert smooth_part_3d(ramp, "published")[..., 9:, :, :].abs().max() == 0
    along = [EdgeMap3d(v)(ramp)[inside].mean().item() for v in ("published", "corrected")]
    across = EdgeMap3d()(ramp.transpose(2, 4))[inside].mean().item()
    assert along[0] == pytest.approx(across / 2) and along[1] == pytest.approx(across)


@pytest.mark.parametrize("size", [(1, 2, 3), (4, 5, 7)])
@pytest.mark.parametrize("variant", ["published", "corrected"])
def test_band_takes_any_size(size, variant):
    assert smooth_part_3d(torch.rand(1, 1, *size), variant).shape == (1, 1, *size)


@pytest.mark.parametrize("published, name, egm", PUBLISHED)
@pytest.mark.parametrize("wrap", ["plain", "module", "net"])
def test_published_state_dict_loads(published, name, egm, wrap):
    weights = filled_state_dict(published)
    prefixed = {f"module.{key}": value for key, value in weights.items()}
    net = net_factory(name, egm=egm)
    import_state_dict(
        net, {"plain": weights, "module": prefixed, "net": {"net": prefixed, "opt": {}}}[wrap]
    )
    for key, value in net.state_dict().items():
        assert torch.equal(value, weights[key]), key


@pytest.mark.parametrize("published, name, egm", PUBLISHED)
def test_networks_give_logits_and_gradients(published, name, egm):
    net = net_factory(name, egm=egm)
    import_state_dict(net, filled_state_dict(published))
    logits = net(torch.rand(2, 1, 32, 16, 32))
    assert logits.shape == (2, 2, 32, 16, 32) and logits.isfinite().all()
    logits.square().mean().backward()
    without = {key for key, p in net.named_parameters() if p.grad is None}
    assert without == {key for key, p in net.named_parameters() if not p.requires_grad}
    assert all("adjust_128_to" in key for key in without) and len(without) == (
        0 if egm == "none" else 18
    )


def test_mode_switches_the_networks_own_dropouts():
    x = torch.rand(1, 1, 32, 32, 32)
    torch.manual_seed(0)
    train, test = net_factory("VNet", egm="none"), net_factory("VNet", mode="test", egm="none")
    assert torch.equal(test(x), test(x)) and not torch.equal(train(x), train(x))
    rates = {
        mode: [
            m.p
            for m in net_factory("VNet_pancreas", mode=mode).block_five.modules()
            if isinstance(m, torch.nn.Dropout3d)
        ]
        for mode in ("train", "test")
    }
    assert rates == {"train": [0.5] * 3, "test": [0.0] * 3}


def test_bcps_pancreas_network_has_its_own_names_and_no_dropout():
    net, shapes, x = (
        net_factory("VNet_pancreas", egm="none"),
        published_shapes("vnet_pancreas_bcp"),
        torch.rand(1, 1, 32, 32, 32),
    )
    assert {key: list(value.shape) for key, value in net.state_dict().items()} == shapes and list(
        net.state_dict()
    ) == list(shapes)
    named = (
        "block_one.conv.0.weight",
        "block_four.conv.3.bias",
        "block_five.conv.6.weight",
        "branchs.0.0.conv.0.weight",
        "branchs.0.1.bias",
    )
    assert set(named) <= set(shapes) and len(shapes) == 2 * (12 + 8 + 8 + 2)
    assert torch.equal(net(x), net(x))


def test_inputs_and_names_that_do_not_fit():
    with pytest.raises(ValueError, match=r"90x96x32 .* multiples of 16"):
        net_factory("VNet", egm="none")(torch.rand(1, 1, 90, 96, 32))
    for arguments in ({"net_type": "unet"}, {"mode": "eval"}, {"egm": "other"}):
        with pytest.raises(ValueError, match="unknown"):
            net_factory(**arguments)
