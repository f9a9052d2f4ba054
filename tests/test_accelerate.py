"""Compiled networks: one graph without a break, the same losses and gradients; and what bfloat16 keeps in float32."""

import pytest
import torch
from helpers import LOSS_2D, LOSS_3D

from methods.supervised import Supervised
from networks.egm import EdgeGuidedBase
from networks.registry import build
from training.accelerate import accelerated, check_accelerate
from utils.errors import UserError

CPU = torch.device("cpu")
SIZES = {"unet": (2, 1, 80, 80), "VNet": (2, 1, 32, 16, 16)}


def case(name, egm="published", dropout=0.0):
    """A supervised phase whose network has no dropout (draws differ between kernels), and a batch."""
    torch.manual_seed(0)
    net = build(name, 1, 2, {"egm": egm})
    for module in net.modules():
        if isinstance(module, torch.nn.Dropout | torch.nn.Dropout3d):
            module.p = dropout
    image = torch.rand(SIZES[name])
    phase = Supervised(net, LOSS_2D if image.ndim == 4 else LOSS_3D)
    return phase, {"image": image, "label": (image[:, 0] > 0.5).long()}


@pytest.mark.parametrize("name, backend", [("unet", "aot_eager"), ("VNet", "eager")])
def test_a_network_is_one_graph_with_the_same_gradients(name, backend):
    phase, batch = case(name)
    state, results = {key: value.clone() for key, value in phase.student.state_dict().items()}, []
    for faster in ({}, accelerated(phase, "compile", backend=backend)):
        phase.student.load_state_dict(state)
        phase.student.zero_grad()
        phase.faster = faster
        loss = phase.losses(batch, 0)["loss"]
        loss.backward()
        gradients = {key: p.grad.clone() for key, p in phase.student.named_parameters() if p.grad is not None}
        results.append((loss.detach(), gradients, {key: value.clone() for key, value in phase.student.state_dict().items()}))
    torch._dynamo.reset()
    (loss, gradients, after), (other_loss, others, other_after) = results
    torch.testing.assert_close(other_loss, loss, rtol=1e-5, atol=0)
    assert others.keys() == gradients.keys()
    scale = max(gradient.norm() for gradient in gradients.values())
    for key, gradient in gradients.items():
        assert (others[key] - gradient).norm() <= 1e-5 * scale, key
    for key, value in after.items():
        torch.testing.assert_close(other_after[key], value, rtol=1e-5, atol=1e-6, msg=key)
    assert any(key.endswith("num_batches_tracked") and value == 1 for key, value in other_after.items())


def test_what_cannot_be_accelerated_is_told():
    with pytest.raises(UserError, match=r"--accelerate compile: not with --recompute"):
        check_accelerate("compile", CPU, recompute=True)
    with pytest.raises(UserError, match=r"--accelerate graph: not for cpu"):
        check_accelerate("graph", CPU, recompute=False)
    check_accelerate("off", CPU, recompute=True)


@pytest.mark.parametrize("name", SIZES)
def test_bfloat16_stays_bfloat16_but_where_it_must_not(name):
    """Features stay in bfloat16 through the edge-guided modules; the edge map is float32; the loss is that of float32 to 1e-2."""
    phase, batch = case(name)
    seen, losses = [], []
    for module in phase.student.modules():
        if isinstance(module, EdgeGuidedBase):
            module.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0].dtype, inputs[1].dtype, output.dtype)))
            module.fusion_conv.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].dtype))
    with torch.no_grad():
        for enabled in (False, True):
            seen.clear()
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                losses.append(phase.losses(batch, 0)["loss"])
    half, whole = torch.bfloat16, torch.float32
    assert len(seen) == 8 and set(seen) == {half, (half, whole, half)}
    assert losses[1].dtype == whole
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-2, atol=0)
