import pytest
import torch
import torch.nn.functional as F
from reference import fill_module, filled_state_dict, laplacian_band, pieces

from networks.egm import EdgeGuidedModule, EdgeMap, smooth_part
from networks.net_factory_ega import net_factory
from networks.published_weights import import_state_dict

PIECES = pieces()


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def test_laplacian_band_as_published():
    close(laplacian_band(PIECES["laplacian_2d.pred"]), PIECES["laplacian_2d.out"])


def test_sobel_magnitude_as_published():
    close(EdgeMap()(PIECES["sobel_2d.image"]), PIECES["sobel_2d.out"])


def test_edge_guided_module_as_published():
    egm = EdgeGuidedModule(16).eval()
    fill_module(egm, "decoder.up4.ega.")
    close(egm(PIECES["egm_2d.feature"], EdgeMap()(PIECES["egm_2d.image"])), PIECES["egm_2d.out"])


def test_grey_before_the_edges():
    image = torch.rand(2, 3, 8, 8)
    grey = 0.299 * image[:, :1] + 0.587 * image[:, 1:2] + 0.114 * image[:, 2:]
    close(EdgeMap()(image), EdgeMap()(grey))


def test_corrected_band_is_aligned_and_the_published_one_is_not():
    """A ramp has no detail: away from the borders an aligned band of it is zero."""
    ramp = torch.arange(32.0).expand(1, 1, 32, 32) / 32
    inside = (slice(None), slice(None), slice(6, -6), slice(6, -6))
    assert laplacian_band(ramp, "corrected")[inside].abs().max() < 1e-6
    assert laplacian_band(ramp, "published")[inside].abs().max() > 0.02


@pytest.mark.parametrize("size", [(9, 9), (10, 13), (16, 11)])
@pytest.mark.parametrize("variant", ["published", "corrected"])
def test_band_takes_any_size_from_9(size, variant):
    assert smooth_part(torch.rand(1, 1, *size), variant).shape == (1, 1, *size)


def test_the_auxiliary_feature_is_the_input_of_the_last_convolution():
    net = net_factory("unet", egm="none").eval()
    logits, feature = net(torch.rand(1, 1, 32, 32), auxiliary=True)
    assert feature.shape == (1, 16, 32, 32)
    close(net.decoder.out_conv(feature), logits)


def test_inputs_the_network_cannot_take():
    with pytest.raises(ValueError, match="at least 9x9"):
        laplacian_band(torch.rand(1, 1, 8, 20))
    with pytest.raises(ValueError, match="multiples of 16"):
        net_factory("unet")(torch.rand(1, 1, 90, 96))
    with pytest.raises(ValueError, match="at least 80"):
        net_factory("unet")(torch.rand(1, 1, 64, 96))
    assert net_factory("unet", egm="none")(torch.rand(1, 1, 64, 96)).shape == (1, 4, 64, 96)


@pytest.mark.parametrize(
    "name, egm, upsampling",
    [("vnet", "published", "published"), ("unet", "other", "published"), ("unet", "none", "cubic")],
)
def test_unknown_names_are_errors(name, egm, upsampling):
    with pytest.raises(ValueError, match="unknown"):
        net_factory(name, egm=egm, upsampling=upsampling)


@pytest.mark.parametrize(
    "egm, published, other", [("published", "nearest", "bilinear"), ("none", "bilinear", "nearest")]
)
def test_upsampling_as_published(egm, published, other):
    """Nearest with edge-guided modules, bilinear without: BCP's own U-Net, whose state dict has the
    same keys either way.
    """
    nets = [
        net_factory("unet", egm=egm, upsampling=upsampling).eval()
        for upsampling in ("published", published, other)
    ]
    for net in nets:
        import_state_dict(net, filled_state_dict("unet_bcp" if egm == "none" else "unet"))
    default, same, different = (
        net(torch.linspace(0, 1, 80 * 96).view(1, 1, 80, 96)) for net in nets
    )
    assert torch.equal(default, same) and not torch.allclose(default, different, atol=1e-3)


@pytest.mark.parametrize(
    "egm, published", [("published", "unet"), ("corrected", "unet"), ("none", "unet_bcp")]
)
@pytest.mark.parametrize("wrap", ["plain", "module", "net"])
def test_published_state_dict_loads(egm, published, wrap):
    weights = filled_state_dict(published)
    wrapped = {
        "plain": weights,
        "module": {f"module.{k}": v for k, v in weights.items()},
        "net": {"net": weights, "opt": {}},
    }[wrap]
    net = net_factory("unet", egm=egm)
    import_state_dict(net, wrapped)
    for key, value in net.state_dict().items():
        assert torch.equal(value, weights[key]), key


def test_state_dicts_that_do_not_fit():
    weights = filled_state_dict("unet")
    with pytest.raises(ValueError, match=r"unexpected key .compute_edge_feature"):
        import_state_dict(net_factory("unet", egm="none"), weights)
    with pytest.raises(ValueError, match=r"lacks key 'decoder\.out_conv\.bias'"):
        import_state_dict(
            net_factory("unet"), {k: v for k, v in weights.items() if k != "decoder.out_conv.bias"}
        )
    with pytest.raises(ValueError, match=r"'decoder\.out_conv\.\w+' is \(4.*expected \(3"):
        import_state_dict(net_factory("unet", class_num=3), weights)
    with pytest.raises(ValueError, match="not a state dict"):
        import_state_dict(net_factory("unet"), {"epoch": 3})


def test_module_equals_the_plain_formula_with_its_gradients():
    """The module shares x * p and one smoothed map between its parts; values and gradients are
    those of the paper's formula.
    """
    torch.manual_seed(0)
    egm, x, edge = (
        EdgeGuidedModule(16).double(),
        torch.randn(2, 16, 20, 24).double(),
        torch.rand(2, 1, 40, 48).double(),
    )

    def plain(x):
        p = torch.sigmoid(x)
        background, boundary = x * (1 - p), x * laplacian_band(p)
        edges = x * F.interpolate(edge, size=x.shape[-2:], mode="bilinear", align_corners=True)
        fused = egm.fusion_conv(torch.cat([background, boundary, edges], 1))
        return egm.cbam(fused * egm.attention(fused) + x)

    results = []
    for function in (lambda x: egm(x, edge), plain):
        leaf = x.clone().requires_grad_()
        out = function(leaf)
        gradients = torch.autograd.grad(out.square().sum(), [leaf, *egm.parameters()])
        results.append((out, *gradients))
    for fast, slow in zip(*results, strict=True):
        torch.testing.assert_close(fast, slow)
