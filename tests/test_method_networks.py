"""Networks that single methods need: their outputs, and published state dicts both ways."""

import json

import pytest
import torch
from reference import VECTORS, fill

from networks.published_weights import import_state_dict, published_state_dict
from networks.registry import build
from networks.resunet import BasicBlock
from networks.unet_ega import UpBlock
from networks.VNet_la_ega import TrilinearUpsample

# Published state dict, our name, number of classes, options.
PUBLISHED = (
    ("mcnet_v1", "unet_mcnet", 4, {}),
    ("mcnet_v2", "unet_mcnet", 4, {"decoders": 3}),
    ("mcnet_v1_la", "VNet_mcnet", 2, {}),
    ("dtc_vnet", "VNet_dtc", 2, {}),
    ("urpc", "unet_urpc", 4, {}),
)


def published_weights(name):
    """Return a state dict with the published names and shapes, filled by name."""
    path = VECTORS / "methods" / f"{name}.keys.json"
    shapes = json.loads(path.read_text(encoding="utf-8"))
    weights = {}
    for key, shape in shapes.items():
        weights[key] = torch.tensor(0)
        if not key.endswith("num_batches_tracked"):
            weights[key] = fill(key, shape)
    return weights


def image(dims, size=32):
    generator = torch.Generator().manual_seed(11)
    return torch.rand((2, 1, *[size] * dims), generator=generator)


def built(name, class_num=3, **options):
    torch.manual_seed(0)
    return build(name, 1, class_num, options).eval()


@pytest.mark.parametrize("published, name, classes, options", PUBLISHED)
def test_a_published_state_dict_loads_and_is_exported_with_the_same_names(
    published, name, classes, options
):
    weights = published_weights(published)
    net = build(name, 1, classes, options)
    import_state_dict(net, weights)
    exported = published_state_dict(net.state_dict())
    assert list(exported) == list(weights)
    for key, value in exported.items():
        assert torch.equal(value, weights[key]), key


@pytest.mark.parametrize("name, dims", [("unet_mcnet", 2), ("VNet_mcnet", 3)])
@pytest.mark.parametrize("decoders", [2, 3])
def test_mc_nets_prediction_is_that_of_the_first_of_its_decoders(name, dims, decoders):
    net = built(name, decoders=decoders)
    logits = net(image(dims), auxiliary=True)
    assert len(logits) == decoders
    assert torch.equal(logits[0], net(image(dims)))
    for first, second in ((0, 1), (1, decoders - 1 if decoders == 3 else 0)):
        assert not torch.allclose(logits[first], logits[second], atol=1e-3)


@pytest.mark.parametrize(
    "name, plain, dims", [("unet_mcnet", "unet", 2), ("VNet_mcnet", "VNet", 3)]
)
def test_mc_nets_first_decoder_with_its_encoder_is_the_plain_network(name, plain, dims):
    net = built(name)
    other = built(plain, egm="none")
    state = net.state_dict()
    other.load_state_dict({key: state[key] for key in other.state_dict()})
    assert torch.equal(net(image(dims)), other(image(dims)))


def test_sdcls_published_state_dict_loads_into_res_u_net_without_its_unused_heads():
    weights = published_weights("sdcl_resunet")
    net = build("resunet", 1, 4, {})
    import_state_dict(net, weights)
    state = net.state_dict()
    assert list(state) == [key for key in weights if key.startswith(("encoder.", "decoder."))]
    assert list(published_state_dict(state)) == list(weights)
    for key, value in state.items():
        assert torch.equal(value, weights[key]), key


def test_a_residual_block_adds_its_input():
    """With convolutions of 0 and batch norm as it starts, a block is the rectified input; one that
    halves is its 1x1 convolution.
    """
    plain, halving = BasicBlock(4, 4).eval(), BasicBlock(4, 8, stride=2).eval()
    for block in (plain, halving):
        torch.nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 4, 6, 6)
    assert torch.equal(plain(x), x.relu())
    torch.testing.assert_close(halving(x), halving.downsample(x).relu())
    assert halving(x).shape == (2, 8, 3, 3)


def test_res_u_nets_encoder_keeps_the_size_and_halves_it_four_times():
    features = built("resunet").encoder(image(2, size=32))
    assert [tuple(one.shape[1:]) for one in features] == [
        (16, 32, 32),
        (32, 16, 16),
        (64, 8, 8),
        (128, 4, 4),
        (256, 2, 2),
    ]


def test_every_decoder_of_mc_net_has_the_gradient_of_its_own_output_only():
    net = built("unet_mcnet", decoders=3)
    net(image(2), auxiliary=True)[1].square().mean().backward()
    learning = {key.split(".")[0] for key, p in net.named_parameters() if p.grad is not None}
    assert learning == {"encoder", "decoder2"}


def test_the_doubling_of_mc_nets_decoders():
    """Corners aligned: both ends of a line stay. Transposed: each pixel becomes a block."""
    line = torch.tensor([0.0, 3.0]).view(1, 1, 1, 2).expand(1, 1, 2, 2)
    bilinear = UpBlock(1, 1, "none", "bilinear").up(line)[0, 0, 0]
    torch.testing.assert_close(bilinear, torch.tensor([0.0, 1.0, 2.0, 3.0]))
    nearest = UpBlock(1, 1, "none", "nearest").up(line)[0, 0, 0]
    assert nearest.tolist() == [0, 0, 3, 3]
    transposed = UpBlock(1, 1, "none", "transposed").up
    with torch.no_grad():
        transposed.weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        transposed.bias.zero_()
    assert transposed(line)[0, 0].tolist()[:2] == [[0, 0, 3, 6], [0, 0, 9, 12]]


def test_trilinear_upsampling_keeps_the_corners():
    line = torch.tensor([0.0, 3.0]).view(1, 1, 1, 1, 2).expand(1, 1, 2, 2, 2)
    doubled = TrilinearUpsample()(line)
    assert doubled.shape == (1, 1, 4, 4, 4)
    torch.testing.assert_close(doubled[0, 0, 1, 2], torch.tensor([0.0, 1.0, 2.0, 3.0]))


@pytest.mark.parametrize("name, dims", [("unet_dtc", 2), ("VNet_dtc", 3)])
def test_dtc_has_a_distance_and_a_logit_for_each_foreground_class(name, dims):
    logits, distance = built(name)(image(dims), auxiliary=True)
    assert logits.shape == (2, 3, *[32] * dims)
    assert distance.shape == (2, 2, *[32] * dims)
    assert (logits[:, 0] == 0).all()
    assert distance.abs().max() <= 1


def test_dtcs_two_heads_convolve_the_same_feature():
    net = built("VNet_dtc", class_num=2)
    features = []
    net.decoder.out_conv.register_forward_pre_hook(lambda layer, inputs: features.append(inputs[0]))
    logits, distance = net(image(3), auxiliary=True)
    (feature,) = features
    torch.testing.assert_close(net.decoder.out_conv(feature).tanh(), distance)
    mask = net.decoder.out_conv2(feature)
    torch.testing.assert_close(logits.softmax(1)[:, 1:], mask.sigmoid())
